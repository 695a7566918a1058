//! What fuzz targets reach beside the public calls. Not for anyone else: feature `fuzz`.

use bytes::BytesMut;

use crate::format::batch::Batch;
use crate::format::footer::{EntryRow, GapRow, Mark, StreamRow, Trailer, decode_rows};
use crate::format::header::Header;
use crate::format::record::RecordHeader;
use crate::format::watermark::Watermark;
use crate::format::{accepted, crc_from, snapshot};

/// Decodes any bytes as a record; one whose check is put right is encoded again as it came.
pub fn record(bytes: &[u8]) {
    assert!(RecordHeader::decode(bytes, 7).is_err() || bytes.len() >= RecordHeader::MIN);
    let Ok(parsed) = RecordHeader::parse(bytes) else { return };
    let Some(checked) = bytes.get(4..parsed.payload_at()) else { return };
    let mut right = crc_from(7, &[checked]).to_le_bytes().to_vec();
    right.extend_from_slice(checked);
    let Ok(header) = RecordHeader::decode(&right, 7) else { return };
    let head = right.get(RecordHeader::fixed(header.stream != 0)..).unwrap_or_default();
    let mut again = BytesMut::new();
    header.encode(7, head, &mut again);
    assert_eq!(again, right, "{header:?}");
}

/// Decodes any bytes as each of the other layouts.
pub fn layouts(bytes: &[u8]) {
    let salt = [3; 32];
    let decoded = [
        Batch::decode(bytes, &salt, 4096).is_some(),
        Header::decode_page(bytes).is_ok(),
        Trailer::decode(bytes, 7, 8192).is_some(),
        Watermark::decode(bytes).is_some(),
        accepted::decode(bytes).is_some(),
        snapshot::decode_header(bytes).is_some(),
        snapshot::decode_end(1, 1, bytes).is_some(),
        decode_rows::<Mark>(bytes, 7, 0).is_some(),
        decode_rows::<StreamRow>(bytes, 7, 0).is_some(),
        decode_rows::<EntryRow>(bytes, 7, 0).is_some(),
        decode_rows::<GapRow>(bytes, 7, 0).is_some(),
    ];
    assert!(bytes.len() >= 16 || !decoded.contains(&true));
    // Lengths have no check of their own: the block's is beside them.
    assert!(
        snapshot::decode_block_header(bytes)
            .is_none_or(|(length, _)| length <= snapshot::BLOCK_BYTES)
    );
}
