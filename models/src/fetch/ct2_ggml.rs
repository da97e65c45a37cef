//! Whisper in CTranslate2's format (half precision) to whisper.cpp's ggml: without loss, or with its matrices in
//! eight bits, which is little more than half the size and a quarter quicker on a CPU.
//!
//! The model is read twice: once to learn where each variable lies, once to copy them in ggml's order,
//! so that memory stays small whatever the model's size. Every length in the file is checked against
//! what is left of it: a damaged file is an error, never a panic or an enormous allocation.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::path::Path;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD_NO_PAD;
use half::f16;

/// Why a model could not be converted.
#[derive(Debug, thiserror::Error)]
pub enum ConvertError {
    /// Reading or writing failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The source is not what it should be.
    #[error("{0}")]
    Bad(String),
}

type Result<T> = std::result::Result<T, ConvertError>;

fn bad<T>(what: impl Into<String>) -> Result<T> {
    Err(ConvertError::Bad(what.into()))
}

/// ggml's magic, "ggml" read as a little-endian word.
const GGML_MAGIC: i32 = 0x6767_6d6c;
/// Weights a block of ggml's Q8_0 has; they share one scale.
const Q8_BLOCK: usize = 32;
/// Bytes of such a block: the scale in half precision, then the weights.
const Q8_BLOCK_BYTES: usize = 2 + Q8_BLOCK;
/// CTranslate2's code for half precision.
const CT2_F16: u8 = 4;
/// Bytes an element of each CTranslate2 type has: f32, i8, i16, i32, f16, bf16.
const CT2_WIDTH: [u64; 6] = [4, 1, 2, 4, 2, 2];
/// Whisper large has 1,300 variables; more than this is not a Whisper.
const VARIABLES_MAX: u32 = 16_384;
/// Whisper's tensors have at most 3 dimensions.
const RANK_MAX: u8 = 4;
/// Width of one attention head in every Whisper.
const HEAD: i32 = 64;
/// Tokens of the English-only vocabulary; the multilingual ones have more.
const VOCAB_ENGLISH: i32 = 51_864;
/// What the published English files call their last text token, and its rank.
const END_OF_TEXT: &[u8] = b"<|endoftext|>";
/// The multilingual vocabulary file has 50,256 lines of at most 200 bytes.
const VOCAB_BYTES_MAX: u64 = 4 << 20;
/// Mel filters: 128 bands × 201 bins is the largest Whisper has.
const MEL_MAX: u64 = 128 * 201;
/// Elements copied at a time: whole blocks, so that none is ever cut.
const CHUNK: usize = 32 * 1024;
const _: () = assert!(CHUNK.is_multiple_of(Q8_BLOCK));

/// How a converted model holds its matrices. Biases, norms and positions are in single precision either way,
/// the two convolutions in half.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    /// Half precision, as they come: nothing is lost.
    F16,
    /// ggml's Q8_0: blocks of 32 eight-bit weights with a scale each. Byte for byte what the `gguf` package
    /// of Python makes.
    Q8,
}

impl Precision {
    /// ggml's code for the whole file: version 2 of the quantised layouts, in thousands, and the type.
    fn file_type(self) -> i32 {
        match self {
            Self::F16 => 1,
            Self::Q8 => 2_000 + 7,
        }
    }
}

/// ggml's type of one tensor; the number is its code in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TensorType {
    F32 = 0,
    F16 = 1,
    Q8 = 8,
}

/// A variable's place in the source.
#[derive(Debug, Clone)]
struct Variable {
    shape: Vec<u64>,
    dtype: u8,
    offset: u64,
}

/// A tensor to write: a stretch of the source under its new name.
struct Tensor {
    name: String,
    shape: Vec<u64>,
    offset: u64,
}

impl Tensor {
    fn elements(&self) -> u64 {
        self.shape.iter().product()
    }
}

/// Converts `model` (CTranslate2's model.bin) with the mel filters (`mel_filters.npz`) and the vocabulary
/// (`gpt2.tiktoken` for English-only models, else `multilingual.tiktoken`) of OpenAI's Whisper.
pub fn convert(
    model: &Path,
    mel: &Path,
    vocab: &Path,
    precision: Precision,
    out: &mut dyn Write,
) -> Result<()> {
    let mut source = BufReader::new(File::open(model)?);
    let index = Index::read(&mut source)?;
    let Plan { tensors, silent, .. } = index.plan()?;
    silent.iter().try_for_each(|tensor| check_silent(&mut source, tensor))?;
    let (tokens, width) = matrix(&tensors, "decoder.token_embedding.weight")?;
    let (audio_context, _) = matrix(&tensors, "encoder.positional_embedding")?;
    let (text_context, _) = matrix(&tensors, "decoder.positional_embedding")?;
    let conv = tensors.iter().find(|tensor| tensor.name == "encoder.conv1.weight");
    let mels = match conv.map(|tensor| tensor.shape.as_slice()) {
        Some([_, mels, _]) => int(*mels)?,
        _ => return bad("encoder/conv1/weight is not three-dimensional"),
    };
    let heads = width / HEAD;
    let header = [
        GGML_MAGIC,
        tokens,
        audio_context,
        width,
        heads,
        int(index.layers("encoder"))?,
        text_context,
        width,
        heads,
        int(index.layers("decoder"))?,
        mels,
        precision.file_type(),
    ];
    ints(out, &header)?;
    write_mel(mel, mels, out)?;
    write_vocab(vocab, tokens, out)?;
    tensors.iter().try_for_each(|tensor| write_tensor(&mut source, tensor, precision, out))
}

fn int(value: impl TryInto<i32>) -> Result<i32> {
    value.try_into().or_else(|_| bad("a size does not fit ggml's header"))
}

fn ints(out: &mut dyn Write, values: &[i32]) -> Result<()> {
    values.iter().try_for_each(|value| out.write_all(&value.to_le_bytes())).map_err(Into::into)
}

fn matrix(tensors: &[Tensor], name: &str) -> Result<(i32, i32)> {
    match tensors.iter().find(|tensor| tensor.name == name).map(|tensor| tensor.shape.as_slice()) {
        Some([rows, columns]) => Ok((int(*rows)?, int(*columns)?)),
        _ => bad(format!("{name} is not a matrix")),
    }
}

/// The variables of a CTranslate2 model.
struct Index(HashMap<String, Variable>);

impl Index {
    fn read(source: &mut BufReader<File>) -> Result<Self> {
        let length = source.get_ref().metadata()?.len();
        let _format_version = u32::from_le_bytes(array(source)?);
        let spec = text(source)?;
        if !spec.starts_with("WhisperSpec") {
            return bad(format!("a model of kind {spec:?} is no Whisper"));
        }
        let _spec_revision = u32::from_le_bytes(array(source)?);
        let count = u32::from_le_bytes(array(source)?);
        if count > VARIABLES_MAX {
            return bad(format!("{count} variables are more than a Whisper has"));
        }
        let mut variables = HashMap::new();
        for _ in 0..count {
            let name = text(source)?;
            let variable = read_variable(source, &name, length)?;
            variables.insert(name, variable);
        }
        Ok(Self(variables))
    }

    /// Layers of `encoder` or `decoder`.
    fn layers(&self, side: &str) -> u64 {
        let number = |name: &String| {
            let rest = name.strip_prefix(side)?.strip_prefix("/layer_")?;
            rest.split('/').next()?.parse::<u32>().ok()
        };
        self.0.keys().filter_map(number).max().map_or(0, |last| u64::from(last) + 1)
    }

    fn get(&self, name: &str) -> Result<&Variable> {
        match self.0.get(name) {
            Some(variable) if variable.dtype == CT2_F16 => Ok(variable),
            Some(_) => bad(format!("{name} is not in half precision: such a conversion would lose")),
            None => bad(format!("there is no {name}")),
        }
    }

    /// Every tensor in the order ggml's files have them.
    fn plan(&self) -> Result<Plan<'_>> {
        let mut plan = Plan { index: self, tensors: Vec::new(), silent: Vec::new() };
        plan.whole("encoder.positional_embedding", "encoder/position_encodings/encodings")?;
        plan.linear("encoder.conv1", "encoder/conv1")?;
        plan.linear("encoder.conv2", "encoder/conv2")?;
        for layer in 0..self.layers("encoder") {
            let (to, from) = (format!("encoder.blocks.{layer}"), format!("encoder/layer_{layer}"));
            plan.self_attention(&to, &from)?;
            plan.mlp(&to, &from)?;
        }
        plan.norm("encoder.ln_post", "encoder/layer_norm")?;
        plan.whole("decoder.positional_embedding", "decoder/position_encodings/encodings")?;
        plan.whole("decoder.token_embedding.weight", "decoder/embeddings/weight")?;
        for layer in 0..self.layers("decoder") {
            let (to, from) = (format!("decoder.blocks.{layer}"), format!("decoder/layer_{layer}"));
            plan.self_attention(&to, &from)?;
            plan.cross_attention(&to, &from)?;
            plan.mlp(&to, &from)?;
        }
        plan.norm("decoder.ln", "decoder/layer_norm")?;
        Ok(plan)
    }
}

fn array<const N: usize>(source: &mut impl Read) -> Result<[u8; N]> {
    let mut bytes = [0; N];
    source.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// A string with its length before it and a zero at its end.
fn text(source: &mut impl Read) -> Result<String> {
    let length = usize::from(u16::from_le_bytes(array(source)?));
    let mut bytes = vec![0; length];
    source.read_exact(&mut bytes)?;
    bytes.pop();
    String::from_utf8(bytes).or_else(|_| bad("a name is not UTF-8"))
}

/// Reads what stands before a variable's data and skips the data.
fn read_variable(source: &mut BufReader<File>, name: &str, length: u64) -> Result<Variable> {
    let [rank] = array(source)?;
    if rank > RANK_MAX {
        return bad(format!("{name} has {rank} dimensions"));
    }
    let mut shape = Vec::new();
    for _ in 0..rank {
        shape.push(u64::from(u32::from_le_bytes(array(source)?)));
    }
    let [dtype] = array(source)?;
    let bytes = u32::from_le_bytes(array(source)?);
    let width = CT2_WIDTH.get(usize::from(dtype)).copied().unwrap_or_default();
    let wanted = shape.iter().try_fold(width, |size, dimension| size.checked_mul(*dimension));
    if width == 0 || wanted != Some(u64::from(bytes)) {
        return bad(format!("{name} has {bytes} bytes, which does not fit its shape {shape:?}"));
    }
    let offset = source.stream_position()?;
    if offset + u64::from(bytes) > length {
        return bad(format!("{name} goes beyond the end of the file"));
    }
    source.seek_relative(i64::from(bytes))?;
    Ok(Variable { shape, dtype, offset })
}

/// Collects tensors under their ggml names.
struct Plan<'a> {
    index: &'a Index,
    tensors: Vec<Tensor>,
    /// Whisper's keys have no bias. CTranslate2 stores zeros for it, which ggml has no place for: these
    /// stretches must be zero, or something would be lost.
    silent: Vec<Tensor>,
}

impl Plan<'_> {
    fn whole(&mut self, to: &str, from: &str) -> Result<()> {
        let variable = self.index.get(from)?;
        let shape = variable.shape.iter().copied().filter(|dimension| *dimension != 1).collect();
        self.tensors.push(Tensor { name: to.to_owned(), shape, offset: variable.offset });
        Ok(())
    }

    fn linear(&mut self, to: &str, from: &str) -> Result<()> {
        self.whole(&format!("{to}.weight"), &format!("{from}/weight"))?;
        self.whole(&format!("{to}.bias"), &format!("{from}/bias"))
    }

    fn norm(&mut self, to: &str, from: &str) -> Result<()> {
        self.whole(&format!("{to}.weight"), &format!("{from}/gamma"))?;
        self.whole(&format!("{to}.bias"), &format!("{from}/beta"))
    }

    /// The `part`-th of `parts` equal stretches of rows.
    fn part(&mut self, to: String, from: &str, part: u64, parts: u64) -> Result<()> {
        let tensor = self.cut(to, from, part, parts)?;
        self.tensors.push(tensor);
        Ok(())
    }

    fn cut(&self, name: String, from: &str, part: u64, parts: u64) -> Result<Tensor> {
        let variable = self.index.get(from)?;
        let Some((rows, rest)) = variable.shape.split_first() else {
            return bad(format!("{from} is a single number"));
        };
        if rows % parts != 0 {
            return bad(format!("{from} has {rows} rows, which {parts} projections cannot share"));
        }
        let share = rows / parts;
        let stride = share * rest.iter().product::<u64>() * 2;
        let shape = std::iter::once(share).chain(rest.iter().copied()).collect();
        Ok(Tensor { name, shape, offset: variable.offset + part * stride })
    }

    fn self_attention(&mut self, to: &str, from: &str) -> Result<()> {
        let (attn, fused) = (format!("{to}.attn"), format!("{from}/self_attention/linear_0"));
        let (weight, bias) = (format!("{fused}/weight"), format!("{fused}/bias"));
        self.part(format!("{attn}.query.weight"), &weight, 0, 3)?;
        self.part(format!("{attn}.query.bias"), &bias, 0, 3)?;
        self.part(format!("{attn}.key.weight"), &weight, 1, 3)?;
        self.silent.push(self.cut(format!("{attn}.key.bias"), &bias, 1, 3)?);
        self.part(format!("{attn}.value.weight"), &weight, 2, 3)?;
        self.part(format!("{attn}.value.bias"), &bias, 2, 3)?;
        self.linear(&format!("{attn}.out"), &format!("{from}/self_attention/linear_1"))?;
        self.norm(&format!("{to}.attn_ln"), &format!("{from}/self_attention/layer_norm"))
    }

    fn cross_attention(&mut self, to: &str, from: &str) -> Result<()> {
        let (attn, fused) = (format!("{to}.cross_attn"), format!("{from}/attention/linear_1"));
        let (weight, bias) = (format!("{fused}/weight"), format!("{fused}/bias"));
        self.linear(&format!("{attn}.query"), &format!("{from}/attention/linear_0"))?;
        self.part(format!("{attn}.key.weight"), &weight, 0, 2)?;
        self.silent.push(self.cut(format!("{attn}.key.bias"), &bias, 0, 2)?);
        self.part(format!("{attn}.value.weight"), &weight, 1, 2)?;
        self.part(format!("{attn}.value.bias"), &bias, 1, 2)?;
        self.linear(&format!("{attn}.out"), &format!("{from}/attention/linear_2"))?;
        self.norm(&format!("{to}.cross_attn_ln"), &format!("{from}/attention/layer_norm"))
    }

    fn mlp(&mut self, to: &str, from: &str) -> Result<()> {
        self.linear(&format!("{to}.mlp.0"), &format!("{from}/ffn/linear_0"))?;
        self.linear(&format!("{to}.mlp.2"), &format!("{from}/ffn/linear_1"))?;
        self.norm(&format!("{to}.mlp_ln"), &format!("{from}/ffn/layer_norm"))
    }
}

fn check_silent(source: &mut BufReader<File>, tensor: &Tensor) -> Result<()> {
    source.seek(SeekFrom::Start(tensor.offset))?;
    let mut left = source.take(tensor.elements() * 2);
    let mut chunk = [0_u8; 4096];
    loop {
        let count = left.read(&mut chunk)?;
        if chunk[..count].iter().any(|byte| *byte != 0) {
            return bad(format!("{} is not zero", tensor.name));
        }
        if count == 0 {
            return Ok(());
        }
    }
}

/// Writes one tensor: header, then the data in the type whisper.cpp wants it in.
fn write_tensor(
    source: &mut BufReader<File>,
    tensor: &Tensor,
    precision: Precision,
    out: &mut dyn Write,
) -> Result<()> {
    let mut shape = tensor.shape.clone();
    let name = tensor.name.as_str();
    let conv_bias = matches!(name, "encoder.conv1.bias" | "encoder.conv2.bias");
    let kind = match (shape.as_slice(), precision) {
        _ if conv_bias || name.ends_with("positional_embedding") => TensorType::F32,
        ([] | [_], _) => TensorType::F32,
        ([_, columns], Precision::Q8) if columns % Q8_BLOCK as u64 == 0 => TensorType::Q8,
        ([_, columns], Precision::Q8) => {
            return bad(format!("{name} has {columns} columns, which are no whole blocks of {Q8_BLOCK}"));
        }
        _ => TensorType::F16,
    };
    if conv_bias {
        shape.push(1);
    }
    ints(out, &[int(shape.len())?, int(name.len())?, kind as i32])?;
    for dimension in shape.iter().rev() {
        ints(out, &[int(*dimension)?])?;
    }
    out.write_all(name.as_bytes())?;
    source.seek(SeekFrom::Start(tensor.offset))?;
    let mut left = tensor.elements();
    let mut buffer = vec![0_u8; CHUNK * 2];
    let mut values = Vec::with_capacity(CHUNK);
    let mut encoded = Vec::with_capacity(CHUNK * 4);
    while left > 0 {
        let take = left.min(CHUNK as u64) as usize;
        let bytes = &mut buffer[..take * 2];
        source.read_exact(bytes)?;
        encode(bytes, kind, &mut values, &mut encoded);
        out.write_all(if kind == TensorType::F16 { bytes } else { &encoded })?;
        left -= take as u64;
    }
    Ok(())
}

/// `halves` (little-endian half precision) as `kind` into `encoded`; half precision needs no encoding.
fn encode(halves: &[u8], kind: TensorType, values: &mut Vec<f32>, encoded: &mut Vec<u8>) {
    if kind == TensorType::F16 {
        return;
    }
    values.clear();
    values.extend(halves.chunks_exact(2).map(|pair| f16::from_le_bytes([pair[0], pair[1]]).to_f32()));
    encoded.clear();
    match kind {
        TensorType::Q8 => values.chunks_exact(Q8_BLOCK).for_each(|block| encoded.extend(q8_block(block))),
        _ => values.iter().for_each(|value| encoded.extend(value.to_le_bytes())),
    }
}

/// One block of Q8_0. The weights are divided by the scale in single precision, before the scale itself is
/// rounded to half: that is what ggml does.
fn q8_block(block: &[f32]) -> [u8; Q8_BLOCK_BYTES] {
    let scale = block.iter().fold(0.0_f32, |peak, weight| peak.max(weight.abs())) / 127.0;
    let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    let mut bytes = [0; Q8_BLOCK_BYTES];
    let (head, weights) = bytes.split_at_mut(2);
    head.copy_from_slice(&f16::from_f32(scale).to_le_bytes());
    for (byte, weight) in weights.iter_mut().zip(block) {
        // Rounds halves away from zero, as ggml does; a damaged weight (NaN) becomes 0.
        *byte = ((weight * inverse).round() as i8).cast_unsigned();
    }
    bytes
}

fn write_mel(path: &Path, mels: i32, out: &mut dyn Write) -> Result<()> {
    let mut archive = npyz::npz::NpzArchive::open(path)?;
    let Some(filters) = archive.by_name(&format!("mel_{mels}"))? else {
        return bad(format!("the mel filters have no set of {mels} bands"));
    };
    let shape = filters.shape().to_vec();
    let size = shape.iter().try_fold(1_u64, |size, dimension| size.checked_mul(*dimension));
    if shape.len() != 2 || size.is_none_or(|size| size > MEL_MAX) {
        return bad(format!("mel filters of shape {shape:?}"));
    }
    let values: Vec<f32> = filters.into_vec()?;
    ints(out, &[int(shape[0])?, int(shape[1])?])?;
    values.iter().try_for_each(|value| out.write_all(&value.to_le_bytes())).map_err(Into::into)
}

fn write_vocab(path: &Path, tokens: i32, out: &mut dyn Write) -> Result<()> {
    let mut text = String::new();
    File::open(path)?.take(VOCAB_BYTES_MAX).read_to_string(&mut text)?;
    let mut pieces: Vec<Vec<u8>> = Vec::new();
    for line in text.lines().filter(|line| !line.is_empty()) {
        // Padding is not counted on: the multilingual file writes the empty token as a lone "=".
        let piece = line.split_once(' ').map(|(piece, _rank)| piece.trim_end_matches('='));
        let piece = piece.and_then(|piece| BASE64_STANDARD_NO_PAD.decode(piece).ok());
        pieces.push(piece.ok_or(ConvertError::Bad(format!("the vocabulary's line {line:?}")))?);
    }
    if tokens == VOCAB_ENGLISH {
        pieces.push(END_OF_TEXT.to_vec());
    }
    if pieces.len() > usize::try_from(tokens).unwrap_or_default() {
        return bad(format!("a vocabulary of {} for a model of {tokens}", pieces.len()));
    }
    ints(out, &[int(pieces.len())?])?;
    for piece in &pieces {
        ints(out, &[int(piece.len())?])?;
        out.write_all(piece)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_of_eight_bits_is_what_ggml_makes() {
        let mut block = [0.0; Q8_BLOCK];
        assert_eq!(q8_block(&block), [0; Q8_BLOCK_BYTES]);
        // The peak becomes ±127; halves go away from zero.
        block[..5].copy_from_slice(&[-127.0, 2.5, -2.5, 0.49, 126.5]);
        let bytes = q8_block(&block);
        assert_eq!(bytes[..2], f16::ONE.to_le_bytes());
        assert_eq!(bytes[2..8], [-127, 3, -3, 0, 127, 0].map(i8::cast_unsigned));
    }
}
