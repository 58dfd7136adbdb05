//! Archives made by hand, by GNU tar and by bsdtar, and what is read from them.

use std::sync::Arc;

use super::*;
use crate::image::store::{CHUNK, Store};
use crate::request::Limits;

pub(super) fn region(bytes: &[u8]) -> Region {
    let chunks = bytes
        .chunks(CHUNK)
        .map(|chunk| Some(chunk.into()))
        .collect();
    let store = Store::of_chunks(chunks, bytes.len() as u64, "a.tar".into());
    Region::whole(Arc::new(store))
}

fn members(bytes: &[u8]) -> Result<Vec<Member>, Error> {
    let mut members = Vec::new();
    let counter = Counter::new(&Limits::default());
    read(&region(bytes), &counter, &mut |member| {
        members.push(member);
        Ok::<(), Error>(())
    })?;
    Ok(members)
}

#[test]
#[ignore]
fn try_one() {
    let bytes = std::fs::read(std::env::var("TRY").unwrap()).unwrap();
    let start = std::time::Instant::now();
    let m = members(&bytes).unwrap();
    println!("{} in {:?}", m.len(), start.elapsed());
}
