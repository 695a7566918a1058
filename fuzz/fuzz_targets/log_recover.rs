//! A log's files with bytes turned over, cut off and put behind, in any number and place.
#![no_main]

use libfuzzer_sys::fuzz_target;

mod log_disk;

fuzz_target!(|data: &[u8]| {
    let disk = log_disk::filled();
    for step in data.chunks_exact(6) {
        let [file, how, at @ ..] = step else { continue };
        let files = disk.files();
        let Some((name, bytes)) = files.get(usize::from(*file) % files.len().max(1)) else { continue };
        let [a, b, c, value] = at else { continue };
        let place = u32::from_le_bytes([*a, *b, *c, 0]) as usize % (bytes.len() + 1);
        let mut bytes = bytes.clone();
        match how % 4 {
            0 => {
                if let Some(byte) = bytes.get_mut(place) {
                    *byte ^= value;
                }
            }
            1 => bytes.truncate(place),
            2 => bytes.extend(std::iter::repeat_n(*value, usize::from(*how) * 16)),
            _ => {
                let end = (place + usize::from(*value)).min(bytes.len());
                bytes[place.min(end)..end].fill(0);
            }
        }
        disk.put(name, bytes);
    }
    log_disk::opens(&disk);
});
