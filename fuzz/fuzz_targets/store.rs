//! Any bytes as the log of the state directory. What is read of them is written
//! again as it was.
#![no_main]

use libfuzzer_sys::fuzz_target;
use nuncio::xds::store::log;

fuzz_target!(|input: (bool, &[u8])| {
    let (with_magic, bytes) = input;
    let bytes = match with_magic {
        true => [log::MAGIC.as_slice(), bytes].concat(),
        false => bytes.to_owned(),
    };
    let Ok(found) = log::read(&bytes) else {
        return;
    };
    let changes = found.resources.iter();
    let record = log::record(changes.map(|(key, kept)| (key, Some(kept.clone()))));
    let again = [log::MAGIC.as_slice(), &record.expect("it was read")].concat();
    let again = log::read(&again).expect("it was just written");
    assert_eq!(again.resources, found.resources);
    assert_eq!(again.torn, 0);
});
