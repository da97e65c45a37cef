//! Whether a sentence ends with the words read so far, by the model's own guess of the next token.

use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::token::LlamaToken;

/// The tokens that end a sentence: a mark alone, a line's end, the end of a message.
#[derive(Debug)]
pub(crate) struct Endings(Vec<usize>);

impl Endings {
    /// Looks through the model's vocabulary.
    pub(crate) fn of(model: &LlamaModel) -> Self {
        let vocab = model.vocab();
        let ends = |id: i32| {
            let token = LlamaToken(id);
            vocab.is_eog(token) || ends_sentence(&vocab.token_to_piece(token, false, None))
        };
        Self((0..vocab.n_tokens()).filter(|&id| ends(id)).filter_map(|id| usize::try_from(id).ok()).collect())
    }

    /// The share of the next token's probability that these have.
    pub(crate) fn probability(&self, logits: &[f32]) -> f32 {
        let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let all: f64 = logits.iter().map(|l| f64::from(l - top).exp()).sum();
        let ends: f64 = self.0.iter().filter_map(|&i| logits.get(i)).map(|l| f64::from(l - top).exp()).sum();
        (ends / all) as f32
    }
}

/// Whether a piece of text closes a sentence and begins nothing.
fn ends_sentence(piece: &[u8]) -> bool {
    let Ok(piece) = std::str::from_utf8(piece) else { return false };
    let begins = piece.trim_start_matches([' ', '\t']);
    begins.starts_with(['.', '!', '?', '…', '\n']) && !piece.chars().any(char::is_alphanumeric)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_and_line_ends_close_a_sentence_and_file_names_do_not() {
        for piece in [".", "?", "!", "...", ".\n\n", "\n", " .", ".\""] {
            assert!(ends_sentence(piece.as_bytes()), "{piece:?}");
        }
        for piece in [",", ".com", " and", "", " ", "\"", "-"] {
            assert!(!ends_sentence(piece.as_bytes()), "{piece:?}");
        }
        assert!(!ends_sentence(&[0xFF, b'.']));
    }

    #[test]
    fn the_probability_is_the_share_of_the_endings() {
        let endings = Endings(vec![1, 3]);
        let p = endings.probability(&[0.0, 0.0, 0.0, 0.0]);
        assert!((p - 0.5).abs() < 1e-6, "{p}");
        assert!(endings.probability(&[100.0, 0.0, 0.0, 0.0]) < 1e-6);
    }
}
