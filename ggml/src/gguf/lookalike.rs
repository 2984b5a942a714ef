//! What a file that is no GGUF seems to be: people rename, and downloads leave surprises.

/// A few words on what `bytes` look like.
pub(super) fn describe(bytes: &[u8]) -> &'static str {
    let starts = |magic: &[u8]| bytes.starts_with(magic);
    let head = &bytes[..bytes.len().min(512)];
    let text = head.trim_ascii_start();
    let text_starts =
        |prefix: &[u8]| text.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix));
    if bytes.is_empty() {
        "it is empty"
    } else if head.iter().all(|&b| b == 0) {
        "it starts with zeros (a download that never arrived?)"
    } else if starts(b"FUGG") {
        "its magic number is byte-swapped (a big-endian file)"
    } else if starts(b"lmgg") || starts(b"fmgg") || starts(b"tjgg") || starts(b"algg") {
        "it is in a GGML format older than GGUF; convert the model again"
    } else if is_safetensors(bytes) {
        "it looks like safetensors; convert it first (quantize takes its folder)"
    } else if starts(b"PK\x03\x04") {
        "it looks like a zip archive or a PyTorch checkpoint"
    } else if starts(b"\x80\x02") || starts(b"\x80\x04") {
        "it looks like a Python pickle (an old PyTorch checkpoint)"
    } else if starts(b"\x1f\x8b") || starts(b"\xfd7zXZ\0") || starts(b"\x28\xb5\x2f\xfd") || starts(b"BZh") {
        "it looks compressed; unpack it first"
    } else if text_starts(b"version https://git-lfs") {
        "it is a Git LFS pointer, not the file itself (run git lfs pull)"
    } else if text_starts(b"<!doctype") || text_starts(b"<html") || text_starts(b"<?xml") {
        "it looks like a web page, perhaps one that was downloaded in the model's place"
    } else if text_starts(b"{") || text_starts(b"[") {
        "it looks like JSON"
    } else {
        "it does not start with the letters GGUF"
    }
}

/// A header length that fits the file, then JSON.
fn is_safetensors(bytes: &[u8]) -> bool {
    let Some((len, rest)) = bytes.split_first_chunk::<8>() else {
        return false;
    };
    u64::from_le_bytes(*len) <= rest.len() as u64 && rest.first() == Some(&b'{')
}

#[cfg(test)]
mod tests {
    use super::describe;

    #[test]
    fn knows_what_people_rename() {
        let cases: &[(&[u8], &str)] = &[
            (b"", "empty"),
            (&[0; 4096], "zeros"),
            (b"FUGG\0\0\0\x03", "byte-swapped"),
            (b"tjgg\x03\0\0\0", "older"),
            (b"\x02\0\0\0\0\0\0\0{}", "safetensors"),
            (b"PK\x03\x04....", "zip"),
            (b"\x80\x02}q\x00", "pickle"),
            (b"\x1f\x8b\x08", "compressed"),
            (b"version https://git-lfs.github.com/spec/v1\noid", "Git LFS"),
            (b"\n<!DOCTYPE html><html>", "web page"),
            (b" {\"error\":\"Repository not found\"}", "JSON"),
            (b"GGU", "does not start"),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff{", "does not start"),
        ];
        for (bytes, want) in cases {
            assert!(describe(bytes).contains(want), "{want}: {}", describe(bytes));
        }
    }
}
