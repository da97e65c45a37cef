//! all-mpnet-base-v2 from safetensors to ONNX, pooled and normalised in the graph.
//!
//! Inputs `input_ids` and `attention_mask`, i64 of `[batch, seq]` with `seq` up to 512; output `embedding`,
//! f32 of `[batch, 768]`, of length 1. Opset 17.
//!
//! The graph is written here node by node, as MPNet's authors describe the model: token and position
//! embeddings, one table of relative position biases shared by twelve layers, mean over the attended
//! tokens. The weights are copied from file to file; only one of them is in memory at a time.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::path::Path;

use serde::Deserialize;

use super::ct2_ggml::ConvertError;

type Result<T> = std::result::Result<T, ConvertError>;

/// Width of the model's vectors.
const HIDDEN: u64 = 768;
/// Attention heads, each of [`HEAD`].
const HEADS: i64 = 12;
/// Width of one head.
const HEAD: i64 = 64;
/// Layers.
const LAYERS: usize = 12;
/// Tokens at once, the length the model was trained with.
const TOKENS: i64 = 512;
/// Relative positions fall into so many buckets a direction; half of them are exact.
const BUCKETS: i64 = 16;
/// Distances from here on share the last bucket.
const DISTANCE_MAX: f32 = 128.0;
/// What a masked position's score is lowered by: far enough for softmax, and within half precision.
const MASKED: f32 = -3e4;
/// safetensors' own limit of its header is 100 MB; this model's is 22 kB.
const HEADER_MAX: u64 = 1 << 20;

/// ONNX's codes for element types.
const FLOAT: u64 = 1;
const INT64: u64 = 7;

fn bad<T>(what: impl Into<String>) -> Result<T> {
    Err(ConvertError::Bad(what.into()))
}

/// Converts `model` (model.safetensors of sentence-transformers/all-mpnet-base-v2).
pub fn convert(model: &Path, out: &mut dyn Write) -> Result<()> {
    let mut weights = Weights::open(model)?;
    let mut graph = Graph { weights: &weights, nodes: Vec::new(), initializers: Vec::new(), count: 0 };
    graph.build()?;
    let Graph { nodes, initializers, .. } = graph;
    write_model(&mut weights, &nodes, &initializers, out)
}

// ---------------------------------------------------------------------------------------------
// safetensors
// ---------------------------------------------------------------------------------------------

#[derive(Deserialize)]
struct Header {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: [u64; 2],
}

/// A weight's place in the source.
#[derive(Debug, Clone)]
struct Place {
    shape: Vec<u64>,
    offset: u64,
}

struct Weights {
    source: BufReader<File>,
    places: HashMap<String, Option<Place>>,
}

impl Weights {
    fn open(path: &Path) -> Result<Self> {
        let mut source = BufReader::new(File::open(path)?);
        let length = source.get_ref().metadata()?.len();
        let mut size = [0; 8];
        source.read_exact(&mut size)?;
        let size = u64::from_le_bytes(size);
        if size > HEADER_MAX.min(length) {
            return bad(format!("a header of {size} bytes"));
        }
        let mut header = Vec::new();
        (&mut source).take(size).read_to_end(&mut header)?;
        let header: HashMap<String, serde_json::Value> =
            serde_json::from_slice(&header).or_else(|err| bad(format!("the header is not JSON: {err}")))?;
        let mut places = HashMap::new();
        for (name, value) in header.into_iter().filter(|(name, _)| name != "__metadata__") {
            let place = check(&name, value, 8 + size, length)?;
            places.insert(name.strip_prefix("mpnet.").unwrap_or(&name).to_owned(), place);
        }
        Ok(Self { source, places })
    }
}

/// A weight's entry in the header, checked against the file.
fn check(name: &str, value: serde_json::Value, base: u64, length: u64) -> Result<Option<Place>> {
    let Ok(Header { dtype, shape, data_offsets: [from, to] }) = serde_json::from_value(value) else {
        return bad(format!("{name} has no place"));
    };
    if dtype != "F32" {
        // MPNet's list of positions is of integers; the graph does without.
        return Ok(None);
    }
    let bytes = shape.iter().try_fold(4_u64, |size, dimension| size.checked_mul(*dimension));
    let end = base.checked_add(to);
    if from > to || bytes != Some(to - from) || end.is_none_or(|end| end > length) {
        return bad(format!(
            "{name} lies at {from}..{to}, which does not fit its shape {shape:?} or the file"
        ));
    }
    Ok(Some(Place { shape, offset: base + from }))
}

// ---------------------------------------------------------------------------------------------
// The graph
// ---------------------------------------------------------------------------------------------

/// A constant of the graph.
struct Initializer {
    name: String,
    dims: Vec<u64>,
    dtype: u64,
    data: Data,
}

enum Data {
    /// Its bytes.
    Here(Vec<u8>),
    /// As it lies in the source.
    Copied { offset: u64 },
    /// A matrix of the source, rows and columns exchanged: PyTorch multiplies from the other side.
    Transposed { offset: u64, rows: u64, columns: u64 },
}

impl Initializer {
    fn bytes(&self) -> u64 {
        let width = if self.dtype == INT64 { 8 } else { 4 };
        self.dims.iter().product::<u64>() * width
    }
}

enum Attribute<'a> {
    Int(i64),
    Ints(&'a [i64]),
    Float(f32),
}

struct Graph<'a> {
    weights: &'a Weights,
    /// NodeProtos, each with its tag and length.
    nodes: Vec<u8>,
    initializers: Vec<Initializer>,
    count: usize,
}

impl Graph<'_> {
    /// Adds a node and returns its output's name. Attributes must come sorted by name.
    fn node(&mut self, op: &str, inputs: &[&str], attributes: &[(&str, Attribute<'_>)]) -> String {
        self.count += 1;
        let output = format!("{op}_{}", self.count);
        self.node_to(op, inputs, &output, attributes);
        output
    }

    fn node_to(&mut self, op: &str, inputs: &[&str], output: &str, attributes: &[(&str, Attribute<'_>)]) {
        let mut node = Vec::new();
        inputs.iter().for_each(|input| put_bytes(&mut node, 1, input.as_bytes()));
        put_bytes(&mut node, 2, output.as_bytes());
        put_bytes(&mut node, 4, op.as_bytes());
        for (name, value) in attributes {
            put_bytes(&mut node, 5, &encode_attribute(name, value));
        }
        put_bytes(&mut self.nodes, 1, &node);
    }

    fn ints(&mut self, name: &str, values: &[i64]) -> String {
        let data = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.constant(name, vec![values.len() as u64], INT64, Data::Here(data))
    }

    fn float(&mut self, name: &str, value: f32) -> String {
        self.constant(name, vec![1], FLOAT, Data::Here(value.to_le_bytes().to_vec()))
    }

    fn constant(&mut self, name: &str, dims: Vec<u64>, dtype: u64, data: Data) -> String {
        self.initializers.push(Initializer { name: name.to_owned(), dims, dtype, data });
        name.to_owned()
    }

    fn place(&self, from: &str, rank: usize) -> Result<Place> {
        match self.weights.places.get(from) {
            Some(Some(place)) if place.shape.len() == rank => Ok(place.clone()),
            Some(_) => bad(format!("{from} has another type or shape")),
            None => bad(format!("there is no {from}")),
        }
    }

    fn weight(&mut self, name: &str, from: &str, rank: usize) -> Result<String> {
        let Place { shape, offset } = self.place(from, rank)?;
        Ok(self.constant(name, shape, FLOAT, Data::Copied { offset }))
    }

    fn norm(&mut self, x: &str, from: &str) -> Result<String> {
        let weight = self.weight(&format!("{from}.w"), &format!("{from}.weight"), 1)?;
        let bias = self.weight(&format!("{from}.b"), &format!("{from}.bias"), 1)?;
        let attributes = [("axis", Attribute::Int(-1)), ("epsilon", Attribute::Float(1e-5))];
        Ok(self.node("LayerNormalization", &[x, &weight, &bias], &attributes))
    }

    fn linear(&mut self, x: &str, from: &str) -> Result<String> {
        let Place { shape, offset } = self.place(&format!("{from}.weight"), 2)?;
        let (rows, columns) = (shape[0], shape[1]);
        let data = Data::Transposed { offset, rows, columns };
        let weight = self.constant(&format!("{from}.w"), vec![columns, rows], FLOAT, data);
        let product = self.node("MatMul", &[x, &weight], &[]);
        let bias = self.weight(&format!("{from}.b"), &format!("{from}.bias"), 1)?;
        Ok(self.node("Add", &[&product, &bias], &[]))
    }

    fn build(&mut self) -> Result<()> {
        let one = self.ints("one", &[1]);
        let axis1 = self.ints("ax1", &[1]);
        let mut x = self.embeddings(&one)?;
        let bias = self.position_bias(&axis1)?;
        let split = self.ints("shp", &[0, 0, HEADS, HEAD]);
        let join = self.ints("shp2", &[0, 0, HEADS * HEAD]);
        // 1 / √64, the width of a head.
        let scale = self.float("scale", 0.125);
        for layer in 0..LAYERS {
            let shapes = Shapes { split: &split, join: &join, scale: &scale, bias: &bias };
            x = self.layer(&x, &format!("encoder.layer.{layer}."), &shapes)?;
        }
        self.pool(&x, &axis1);
        Ok(())
    }

    /// Positions count what is not padding (token 1), beginning behind the padding's own position.
    fn embeddings(&mut self, one: &str) -> Result<String> {
        let padding = self.node("Equal", &["input_ids", one], &[]);
        let kept = self.node("Not", &[&padding], &[]);
        let kept = self.node("Cast", &[&kept], &[("to", Attribute::Int(INT64 as i64))]);
        let axis = self.ints("axis1", &[1]);
        let counted = self.node("CumSum", &[&kept, &axis], &[]);
        let counted = self.node("Mul", &[&counted, &kept], &[]);
        let positions = self.node("Add", &[&counted, one], &[]);
        let words = self.weight("wte", "embeddings.word_embeddings.weight", 2)?;
        let words = self.node("Gather", &[&words, "input_ids"], &[]);
        let places = self.weight("wpe", "embeddings.position_embeddings.weight", 2)?;
        let places = self.node("Gather", &[&places, &positions], &[]);
        let sum = self.node("Add", &[&words, &places], &[]);
        self.norm(&sum, "embeddings.LayerNorm")
    }

    /// What every layer adds to its scores: the bias of the distance, and the mask.
    fn position_bias(&mut self, axis1: &str) -> Result<String> {
        let side = TOKENS as u64;
        let table: Vec<u8> =
            (0..TOKENS * TOKENS).flat_map(|at| bucket(at / TOKENS - at % TOKENS).to_le_bytes()).collect();
        let buckets = self.constant("bucket", vec![side, side], INT64, Data::Here(table));
        let shape = self.node("Shape", &["input_ids"], &[]);
        let second = self.ints("i1", &[1]);
        let length = self.node("Gather", &[&shape, &second], &[]);
        let zero = self.ints("z", &[0]);
        let rows = self.node("Slice", &[&buckets, &zero, &length, &zero], &[]);
        let square = self.node("Slice", &[&rows, &zero, &length, axis1], &[]);
        let table = self.weight("relb", "encoder.relative_attention_bias.weight", 2)?;
        let bias = self.node("Gather", &[&table, &square], &[]);
        let bias = self.node("Transpose", &[&bias], &[("perm", Attribute::Ints(&[2, 0, 1]))]);
        let bias = self.node("Unsqueeze", &[&bias, &zero], &[]);
        let full = self.float("f1", 1.0);
        let axes = self.ints("ax12", &[1, 2]);
        let mask = self.node("Unsqueeze", &["attention_mask", &axes], &[]);
        let mask = self.node("Cast", &[&mask], &[("to", Attribute::Int(FLOAT as i64))]);
        let hidden = self.node("Sub", &[&full, &mask], &[]);
        let lowered = self.float("neg", MASKED);
        let mask = self.node("Mul", &[&hidden, &lowered], &[]);
        Ok(self.node("Add", &[&bias, &mask], &[]))
    }

    fn layer(&mut self, x: &str, at: &str, shapes: &Shapes<'_>) -> Result<String> {
        let attn = format!("{at}attention.attn.");
        let query = self.heads(x, &format!("{attn}q"), shapes, &[0, 2, 1, 3])?;
        let key = self.heads(x, &format!("{attn}k"), shapes, &[0, 2, 3, 1])?;
        let scores = self.node("MatMul", &[&query, &key], &[]);
        let scores = self.node("Mul", &[&scores, shapes.scale], &[]);
        let scores = self.node("Add", &[&scores, shapes.bias], &[]);
        let scores = self.node("Softmax", &[&scores], &[("axis", Attribute::Int(-1))]);
        let value = self.heads(x, &format!("{attn}v"), shapes, &[0, 2, 1, 3])?;
        let mixed = self.node("MatMul", &[&scores, &value], &[]);
        let mixed = self.node("Transpose", &[&mixed], &[("perm", Attribute::Ints(&[0, 2, 1, 3]))]);
        let mixed = self.node("Reshape", &[&mixed, shapes.join], &[]);
        let mixed = self.linear(&mixed, &format!("{attn}o"))?;
        let sum = self.node("Add", &[x, &mixed], &[]);
        let x = self.norm(&sum, &format!("{at}attention.LayerNorm"))?;
        let wide = self.linear(&x, &format!("{at}intermediate.dense"))?;
        let gelu = self.gelu(&wide, at);
        let narrow = self.linear(&gelu, &format!("{at}output.dense"))?;
        let sum = self.node("Add", &[&x, &narrow], &[]);
        self.norm(&sum, &format!("{at}output.LayerNorm"))
    }

    fn heads(&mut self, x: &str, from: &str, shapes: &Shapes<'_>, order: &[i64]) -> Result<String> {
        let projected = self.linear(x, from)?;
        let split = self.node("Reshape", &[&projected, shapes.split], &[]);
        Ok(self.node("Transpose", &[&split], &[("perm", Attribute::Ints(order))]))
    }

    /// The exact GELU: x/2 · (1 + erf(x/√2)).
    fn gelu(&mut self, x: &str, at: &str) -> String {
        let half = self.float(&format!("{at}h"), 0.5);
        let half = self.node("Mul", &[x, &half], &[]);
        let root = self.float(&format!("{at}r"), std::f32::consts::FRAC_1_SQRT_2);
        let root = self.node("Mul", &[x, &root], &[]);
        let erf = self.node("Erf", &[&root], &[]);
        let one = self.float(&format!("{at}o1"), 1.0);
        let sum = self.node("Add", &[&erf, &one], &[]);
        self.node("Mul", &[&half, &sum], &[])
    }

    /// The mean of the attended tokens, brought to length 1.
    fn pool(&mut self, x: &str, axis1: &str) {
        let mask = self.node("Cast", &["attention_mask"], &[("to", Attribute::Int(FLOAT as i64))]);
        let axis = self.ints("ax2", &[2]);
        let mask = self.node("Unsqueeze", &[&mask, &axis], &[]);
        let kept = self.node("Mul", &[x, &mask], &[]);
        let sum = self.node("ReduceSum", &[&kept, axis1], &[("keepdims", Attribute::Int(0))]);
        let count = self.node("ReduceSum", &[&mask, axis1], &[("keepdims", Attribute::Int(0))]);
        let mean = self.node("Div", &[&sum, &count], &[]);
        let attributes = [("axis", Attribute::Int(-1)), ("p", Attribute::Int(2))];
        self.node_to("LpNormalization", &[&mean], "embedding", &attributes);
    }
}

/// Names every layer refers to.
struct Shapes<'a> {
    split: &'a str,
    join: &'a str,
    scale: &'a str,
    bias: &'a str,
}

/// The bucket of a distance, positive to the left: exact up to half the buckets, logarithmic beyond.
fn bucket(distance: i64) -> i64 {
    let side = if distance < 0 { BUCKETS } else { 0 };
    let exact = BUCKETS / 2;
    let distance = distance.abs();
    if distance < exact {
        return side + distance;
    }
    let exact_f = exact as f32;
    let far = (distance as f32 / exact_f).ln() / (DISTANCE_MAX / exact_f).ln() * (BUCKETS - exact) as f32;
    side + (exact + far as i64).min(BUCKETS - 1)
}

// ---------------------------------------------------------------------------------------------
// ONNX's protobuf
// ---------------------------------------------------------------------------------------------

/// Appends a field of bytes: tag, length, content.
fn put_bytes(out: &mut Vec<u8>, field: u64, bytes: &[u8]) {
    put_varint(out, field << 3 | 2);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Appends a field of a whole number.
fn put_int(out: &mut Vec<u8>, field: u64, value: u64) {
    put_varint(out, field << 3);
    put_varint(out, value);
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// AttributeProto. Its type codes: 1 float, 2 int, 7 ints.
fn encode_attribute(name: &str, value: &Attribute<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    put_bytes(&mut out, 1, name.as_bytes());
    let kind = match value {
        Attribute::Float(value) => {
            put_varint(&mut out, 2 << 3 | 5);
            out.extend_from_slice(&value.to_le_bytes());
            1
        }
        Attribute::Int(value) => {
            put_int(&mut out, 3, *value as u64);
            2
        }
        Attribute::Ints(values) => {
            values.iter().for_each(|value| put_int(&mut out, 8, *value as u64));
            7
        }
    };
    put_int(&mut out, 20, kind);
    out
}

/// ValueInfoProto of a tensor with these dimensions: a name where the size varies, else the size.
fn value_info(name: &str, dtype: u64, dims: &[std::result::Result<u64, &str>]) -> Vec<u8> {
    let mut shape = Vec::new();
    for dim in dims {
        let mut encoded = Vec::new();
        match dim {
            Ok(size) => put_int(&mut encoded, 1, *size),
            Err(name) => put_bytes(&mut encoded, 2, name.as_bytes()),
        }
        put_bytes(&mut shape, 1, &encoded);
    }
    let mut tensor = Vec::new();
    put_int(&mut tensor, 1, dtype);
    put_bytes(&mut tensor, 2, &shape);
    let mut kind = Vec::new();
    put_bytes(&mut kind, 1, &tensor);
    let mut out = Vec::new();
    put_bytes(&mut out, 1, name.as_bytes());
    put_bytes(&mut out, 2, &kind);
    out
}

/// What stands before an initializer's bytes: its tag in the graph, and the head of its TensorProto.
fn initializer_head(initializer: &Initializer) -> Vec<u8> {
    let mut head = Vec::new();
    initializer.dims.iter().for_each(|dim| put_int(&mut head, 1, *dim));
    put_int(&mut head, 2, initializer.dtype);
    put_bytes(&mut head, 8, initializer.name.as_bytes());
    put_varint(&mut head, 9 << 3 | 2);
    put_varint(&mut head, initializer.bytes());
    let mut out = Vec::new();
    put_varint(&mut out, 5 << 3 | 2);
    put_varint(&mut out, head.len() as u64 + initializer.bytes());
    out.extend_from_slice(&head);
    out
}

fn write_model(
    weights: &mut Weights,
    nodes: &[u8],
    initializers: &[Initializer],
    out: &mut dyn Write,
) -> Result<()> {
    let mut name = Vec::new();
    put_bytes(&mut name, 2, b"mpnet");
    let mut values = Vec::new();
    for input in ["input_ids", "attention_mask"] {
        put_bytes(&mut values, 11, &value_info(input, INT64, &[Err("batch"), Err("seq")]));
    }
    put_bytes(&mut values, 12, &value_info("embedding", FLOAT, &[Err("batch"), Ok(HIDDEN)]));
    let heads: Vec<Vec<u8>> = initializers.iter().map(initializer_head).collect();
    let constants: u64 =
        heads.iter().zip(initializers).map(|(head, init)| head.len() as u64 + init.bytes()).sum();
    let graph = (nodes.len() + name.len() + values.len()) as u64 + constants;
    let mut head = Vec::new();
    // IR version 8, the one of opset 17.
    put_int(&mut head, 1, 8);
    put_varint(&mut head, 7 << 3 | 2);
    put_varint(&mut head, graph);
    out.write_all(&head)?;
    out.write_all(nodes)?;
    out.write_all(&name)?;
    for (head, initializer) in heads.iter().zip(initializers) {
        out.write_all(head)?;
        write_data(weights, initializer, out)?;
    }
    out.write_all(&values)?;
    let mut opset = Vec::new();
    put_bytes(&mut opset, 1, b"");
    put_int(&mut opset, 2, 17);
    let mut tail = Vec::new();
    put_bytes(&mut tail, 8, &opset);
    Ok(out.write_all(&tail)?)
}

fn write_data(weights: &mut Weights, initializer: &Initializer, out: &mut dyn Write) -> Result<()> {
    match &initializer.data {
        Data::Here(bytes) => out.write_all(bytes)?,
        Data::Copied { offset } => {
            weights.source.seek(SeekFrom::Start(*offset))?;
            io::copy(&mut (&mut weights.source).take(initializer.bytes()), out)?;
        }
        Data::Transposed { offset, rows, columns } => {
            // At most 3,072 × 768 numbers; their place was checked against the file's length.
            let mut matrix = vec![0_u8; initializer.bytes() as usize];
            weights.source.seek(SeekFrom::Start(*offset))?;
            weights.source.read_exact(&mut matrix)?;
            let (rows, columns) = (*rows as usize, *columns as usize);
            let mut line = Vec::with_capacity(rows * 4);
            for column in 0..columns {
                line.clear();
                for row in 0..rows {
                    let at = (row * columns + column) * 4;
                    line.extend_from_slice(&matrix[at..at + 4]);
                }
                out.write_all(&line)?;
            }
        }
    }
    Ok(())
}
