//! Reading the newest version of a table, and moving on with it.

use futures::{StreamExt, TryStreamExt};

use super::{Commit, Found, Log, Name, State};
use crate::table::StoreError;

/// Commits that are read at the same time when a table is opened.
const AT_ONCE: usize = 32;

impl Log {
    /// Makes the first commit, unless another has.
    pub(crate) async fn begin(&self, creation: &Commit) -> Result<bool, StoreError> {
        self.create(0, &creation.encode()).await
    }

    /// The newest version there is; none if there is no table.
    pub(crate) async fn load(&self) -> Result<Option<State>, StoreError> {
        loop {
            let begin = self.newest_checkpoint().await?;
            let state = self.load_from(begin).await?;
            let unread = state.as_ref().is_some_and(|state| !state.unread.is_empty());
            // Clean-up may have deleted what was about to be read; then there is a newer
            // checkpoint.
            if !unread || self.newest_checkpoint().await? == begin {
                return Ok(state);
            }
        }
    }

    async fn load_from(&self, begin: Option<i64>) -> Result<Option<State>, StoreError> {
        let told = match begin {
            Some(version) => self.checkpoint(version).await?,
            None => Found::Missing,
        };
        let (mut state, names) = match told {
            Found::Good(state) => {
                let names = self.names_past(state.version).await?;
                (state, names)
            }
            Found::Missing | Found::Damaged(_) => {
                let names = self.names_past(-1).await?;
                (self.some_checkpoint(&names).await?, names)
            }
        };
        let mut versions: Vec<i64> = names.iter().filter_map(Name::commit).collect();
        versions.retain(|&version| version > state.version);
        versions.sort_unstable();
        if state.version < 0 {
            let Some(&first) = versions.first() else { return Ok(None) };
            // What came before is not to be had, nor told apart commit by commit.
            if first > 0 {
                state.version = first - 2;
                state.skip(format!("the commits before version {first} are missing"));
            }
        }
        let read = futures::stream::iter(versions);
        let read = read.map(async |version| Ok((version, self.commit(version).await?)));
        let mut read = read.buffered(AT_ONCE);
        while let Some((version, found)) = read.try_next().await? {
            while state.version + 1 < version {
                state.skip("it is missing".to_owned());
            }
            self.move_on(&mut state, found);
        }
        self.advance(&mut state).await?;
        Ok(Some(state))
    }

    /// The newest checkpoint that can be read, of those listed; else the state before all.
    async fn some_checkpoint(&self, names: &[Name]) -> Result<State, StoreError> {
        let mut versions: Vec<i64> = names.iter().filter_map(Name::checkpoint).collect();
        versions.sort_unstable();
        for version in versions.into_iter().rev() {
            if let Found::Good(state) = self.checkpoint(version).await? {
                return Ok(state);
            }
        }
        Ok(State::none())
    }

    /// Reads the next commits, without a listing; says whether there were any.
    pub(crate) async fn advance(&self, state: &mut State) -> Result<bool, StoreError> {
        let before = state.version;
        loop {
            match self.commit(state.version + 1).await? {
                Found::Missing => return Ok(state.version != before),
                found => self.move_on(state, found),
            }
        }
    }

    fn move_on(&self, state: &mut State, found: Found<Commit>) {
        match found {
            Found::Good(commit) => state.apply(self.def, &commit),
            Found::Damaged(why) => state.skip(format!("it is damaged: {why}")),
            Found::Missing => state.skip("it is missing".to_owned()),
        }
    }

    /// Whether a checkpoint tells of a version past this one, of which no commit does: it lies so
    /// far behind that what followed it was cleaned up.
    pub(crate) async fn has_left_behind(&self, state: &State) -> Result<bool, StoreError> {
        Ok(self.newest_checkpoint().await?.is_some_and(|newest| newest > state.version))
    }
}
