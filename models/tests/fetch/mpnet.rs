//! safetensors to ONNX: the bytes of the export that was compared with the reference implementation.

use sha2::{Digest, Sha256};
use tempfile::TempDir;
use viva_models::fetch::{models_dir, mpnet_onnx};

#[test]
fn a_damaged_safetensors_file_is_an_error() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("model.safetensors");
    let header = |text: &str| {
        let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
        bytes.extend(text.as_bytes());
        bytes
    };
    let entry = |offsets: &str, shape: &str| {
        header(&format!(
            "{{\"embeddings.word_embeddings.weight\": {{\"dtype\": \"F32\", \"shape\": {shape}, \
             \"data_offsets\": {offsets}}}}}"
        ))
    };
    let cases = [
        vec![],
        vec![1, 2, 3],
        u64::MAX.to_le_bytes().to_vec(),
        header("not json"),
        header("{}"),
        entry("[0, 18446744073709551615]", "[4611686018427387904]"),
        entry("[4, 0]", "[1]"),
        entry("[0, 4096]", "[1024]"),
        entry("[0, 0]", "[18446744073709551615, 18446744073709551615]"),
        entry("[0]", "[1]"),
    ];
    for case in cases {
        std::fs::write(&path, &case).unwrap();
        assert!(mpnet_onnx::convert(&path, &mut Vec::new()).is_err(), "{}", String::from_utf8_lossy(&case));
    }
}

/// `viva models pull --profile quality` runs this conversion and compares the same hash; the source is half
/// a gigabyte in five packages, so that this test is for those who have it at hand.
#[test]
#[ignore = "needs embed/mpnet/model.safetensors in the models folder"]
fn the_published_weights_become_the_known_onnx_file() {
    let mut hasher = Sha256::new();
    mpnet_onnx::convert(&models_dir().join("embed/mpnet/model.safetensors"), &mut hasher).unwrap();
    let found: String = hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(found, "4c140a45503c2713e8f13b94d0e694aac691ee8160c48a2c7f796b50e7465585");
}
