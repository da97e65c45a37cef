//! Sentence embedders (all-MiniLM-L6-v2, all-mpnet-base-v2) on ONNX Runtime.

use std::path::Path;

use ort::session::Session;
use ort::value::{TensorRef, ValueType};
use tokenizers::{Tokenizer, TruncationParams};

use crate::ort_runtime;
use crate::{Embedder, EngineError, Result};

/// Tokens all-MiniLM-L6-v2 was trained on at most (its `sentence_bert_config.json`).
const TOKENS_MAX_MINILM: usize = 256;
/// Tokens all-mpnet-base-v2 was trained on at most.
const TOKENS_MAX_MPNET: usize = 384;
/// Texts in one run: bounds the memory of a run, and on a CPU more gains nothing.
const BATCH_MAX: usize = 16;
/// Bytes of a text that are looked at: 384 tokens of English are about 2 kB, and the tokenizer would
/// otherwise split all of a book only to throw it away.
const TEXT_BYTES_MAX: usize = 16_384;

/// The name of the embedder that a file is: its folder's.
pub fn name_of(model: &Path) -> String {
    let folder = model.parent().and_then(Path::file_name);
    folder.map_or_else(|| "onnx".into(), |name| name.to_string_lossy().into_owned())
}

/// An embedder whose graph takes token ids. Where the graph gives one vector a token, their mean is taken.
pub struct OnnxEmbedder {
    name: String,
    session: Session,
    tokenizer: Tokenizer,
    pad: i64,
    dimensions: usize,
    ids: Vec<i64>,
    mask: Vec<i64>,
    types: Vec<i64>,
}

impl OnnxEmbedder {
    /// Opens `model` with its `tokenizer.json` on the ONNX Runtime library at `runtime`. It is named after
    /// the folder the model lies in.
    pub fn open(model: &Path, tokenizer: &Path, runtime: &Path, threads: usize) -> Result<Self> {
        let session = ort_runtime::session(model, runtime, threads)?;
        let unfit = |why: String| EngineError::Invalid(format!("{}: {why}", model.display()));
        let bert = session.inputs().iter().any(|input| input.name() == "token_type_ids");
        let output = session.outputs().first().ok_or_else(|| unfit("it has no output".into()))?;
        let dimensions = match output.dtype() {
            ValueType::Tensor { shape, .. } => shape.last().copied().and_then(|d| usize::try_from(d).ok()),
            _ => None,
        };
        let dimensions =
            dimensions.filter(|d| *d > 0).ok_or_else(|| unfit("its output has no fixed length".into()))?;
        let (tokenizer, pad) =
            open_tokenizer(tokenizer, if bert { TOKENS_MAX_MINILM } else { TOKENS_MAX_MPNET })?;
        Ok(Self {
            name: name_of(model),
            pad,
            dimensions,
            session,
            tokenizer,
            ids: Vec::new(),
            mask: Vec::new(),
            types: Vec::new(),
        })
    }

    /// Fills the id and mask tables; returns the length of a row.
    fn tokenize(&mut self, texts: &[String]) -> Result<usize> {
        let mut rows = Vec::with_capacity(texts.len());
        for text in texts {
            let row = self.tokenizer.encode_fast(cut(text), true);
            rows.push(row.map_err(|e| EngineError::Failed(format!("tokenizer: {e}")))?);
        }
        let length = rows.iter().map(|row| row.len()).max().unwrap_or(0).max(1);
        self.ids.clear();
        self.mask.clear();
        for (i, row) in rows.iter().enumerate() {
            self.ids.extend(row.get_ids().iter().map(|id| i64::from(*id)));
            self.ids.resize((i + 1) * length, self.pad);
            self.mask.resize(i * length + row.len(), 1);
            self.mask.resize((i + 1) * length, 0);
        }
        self.types.clear();
        self.types.resize(texts.len() * length, 0);
        Ok(length)
    }

    fn run(&mut self, texts: usize, length: usize) -> std::result::Result<Vec<Vec<f32>>, ort::Error> {
        let names: Vec<String> = self.session.inputs().iter().map(|input| input.name().to_owned()).collect();
        let mut inputs = Vec::with_capacity(names.len());
        for name in names {
            let values = match name.as_str() {
                "input_ids" => &self.ids,
                "attention_mask" => &self.mask,
                "token_type_ids" => &self.types,
                other => return Err(ort::Error::new(format!("the model wants an unknown input {other:?}"))),
            };
            inputs.push((name, TensorRef::from_array_view(([texts, length], &values[..]))?));
        }
        let outputs = self.session.run(inputs)?;
        let (shape, values) = outputs[0].try_extract_tensor::<f32>()?;
        let dimensions = self.dimensions;
        let vectors = match shape.len() {
            2 if values.len() == texts * dimensions => {
                values.chunks_exact(dimensions).map(<[f32]>::to_vec).collect()
            }
            3 if values.len() == texts * length * dimensions => (0..texts)
                .map(|i| {
                    let row = i * length..(i + 1) * length;
                    mean(&values[row.start * dimensions..row.end * dimensions], &self.mask[row], dimensions)
                })
                .collect(),
            _ => return Err(ort::Error::new(format!("the model's output has the unknown shape {shape:?}"))),
        };
        Ok(vectors)
    }
}

impl Embedder for OnnxEmbedder {
    fn name(&self) -> &str {
        &self.name
    }

    fn dimensions(&self) -> usize {
        self.dimensions
    }

    fn embed(&mut self, texts: &[String]) -> Result<Vec<Vec<f32>>> {
        let mut vectors = Vec::with_capacity(texts.len());
        for part in texts.chunks(BATCH_MAX) {
            let length = self.tokenize(part)?;
            vectors.extend(self.run(part.len(), length).map_err(|e| ort_runtime::failed("embedding", &e))?);
        }
        vectors.iter_mut().for_each(|vector| normalise(vector));
        Ok(vectors)
    }
}

/// Reads the tokenizer and takes the padding away that its file asks for: rows are padded to the longest of
/// their batch only. Returns the id that pads.
fn open_tokenizer(file: &Path, tokens_max: usize) -> Result<(Tokenizer, i64)> {
    let unfit = |e: tokenizers::Error| {
        EngineError::Invalid(format!("{} is no usable tokenizer: {e}", file.display()))
    };
    if !file.is_file() {
        return Err(EngineError::Invalid(format!(
            "{} does not exist; run: viva models pull",
            file.display()
        )));
    }
    let mut tokenizer = Tokenizer::from_file(file).map_err(unfit)?;
    let pad = tokenizer.get_padding().map_or(0, |padding| i64::from(padding.pad_id));
    tokenizer.with_padding(None);
    let truncation = TruncationParams { max_length: tokens_max, ..TruncationParams::default() };
    tokenizer.with_truncation(Some(truncation)).map_err(unfit)?;
    Ok((tokenizer, pad))
}

/// The part of a text that is looked at.
fn cut(text: &str) -> &str {
    let mut end = text.len().min(TEXT_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// Mean of the vectors of real tokens.
fn mean(values: &[f32], mask: &[i64], dimensions: usize) -> Vec<f32> {
    let mut sum = vec![0.0f32; dimensions];
    for (token, _) in values.chunks_exact(dimensions).zip(mask).filter(|(_, real)| **real == 1) {
        sum.iter_mut().zip(token).for_each(|(s, v)| *s += v);
    }
    sum
}

/// Scales to length 1, which makes a division by the number of tokens needless. Zero stays zero.
fn normalise(vector: &mut [f32]) {
    let length = vector.iter().map(|v| v * v).sum::<f32>().sqrt();
    if length > 0.0 {
        vector.iter_mut().for_each(|v| *v /= length);
    }
}
