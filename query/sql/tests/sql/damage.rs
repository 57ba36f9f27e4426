//! Damaged files: no answer has a value that was not stored.

use std::path::PathBuf;

use nilometer_store::SAMPLES;

use crate::estate::{Lie, small};

/// The next of a row of numbers that look random.
fn next(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
    *seed >> 16
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_is_in_no_answer() {
    let estate = small(Lie::InFiles).await;
    let table = estate.storage.table(&SAMPLES).await.unwrap();
    let folder = estate.folder.path().join("tables/samples");
    let files: Vec<PathBuf> = table.files().iter().map(|file| folder.join(&file.path)).collect();
    let questions = [
        "SELECT * FROM samples ORDER BY at, meter, resource",
        "SELECT sum(value) FROM samples WHERE resource = 'vm-a' AND meter = 'cpu.time'",
        "SELECT resource, meter, quantity FROM usage ORDER BY start, resource, meter",
    ];
    let mut good = Vec::new();
    for sql in questions {
        good.push(estate.ask(sql).await.unwrap());
    }
    let (mut seed, mut failed) = (11, 0);
    for turn in 0..120 {
        let file = &files[turn % files.len()];
        let before = std::fs::read(file).unwrap();
        let mut bytes = before.clone();
        let at = next(&mut seed) as usize % bytes.len();
        bytes[at] ^= 1 << (next(&mut seed) % 8);
        std::fs::write(file, bytes).unwrap();
        // What was read before is kept in memory, so each time another process asks.
        let engine = estate.engine_over(estate.engine.tables().clone());
        for (sql, good) in questions.iter().zip(&good) {
            match estate.ask_of(&engine, sql).await {
                Ok(answer) => assert_eq!(&answer, good, "{sql}: byte {at} of {file:?}"),
                Err(error) => {
                    let why = format!("{error:?}");
                    assert!(why.contains("damaged") && why.contains("repair"), "{why}");
                    failed += 1;
                }
            }
        }
        // Maintenance in the same process finds out.
        let suspects = table.damaged().await.unwrap();
        assert_eq!(suspects.len(), usize::from(failed > 0));
        std::fs::write(file, before).unwrap();
    }
    assert!(failed > 100, "{failed}");
}
