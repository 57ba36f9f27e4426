//! What a real containerd 1.6 answered, recorded by the test `capture`.

use std::path::Path;

use prost::Message;

/// Reads one recorded answer.
pub(crate) fn fixture<M: Message + Default>(name: &str) -> M {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/containerd-1.6");
    M::decode(std::fs::read(dir.join(format!("{name}.bin"))).unwrap().as_slice()).unwrap()
}
