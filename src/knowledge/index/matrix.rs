//! The vectors of an index: one matrix in one file, mapped into memory and searched row by row.
//!
//! The file is a head of [`HEAD`] bytes and then the rows, `f32` in the machine's order. A row is one or more
//! vectors, its views, side by side: it is as near to a query as the nearest of them. The head names the embedder,
//! the length of a vector, the views of a row and the content, so that vectors are never compared with those of
//! another model. Search is exact: at 384 numbers a view and four views, 100,000 rows are 614 MB, which a core
//! reads in some 60 ms.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use memmap2::Mmap;
use sha2::{Digest, Sha256};

use super::ffi;

/// The first bytes of the file, with the version of its form; another byte order reads another number.
const MAGIC: [u8; 8] = *b"VIVAMAT2";

/// Bytes before the first row: a multiple of a cache line, so that rows of 16 floats are aligned.
const HEAD: usize = 256;

/// Bytes an embedder's name may have in the head.
const NAME_MAX: usize = 96;

/// Where the head says how many views a row has: behind the name.
const VIEWS_AT: usize = 192;

/// Numbers of the rows looked at from which on a second thread takes half of them: 64 MB, which one reads in some 6 ms.
/// Below that the thread costs more than it saves.
const SHARED_FROM: usize = 16 << 20;

/// Numbers added side by side: as many as fit the widest registers, and enough of them that a sum need not
/// wait for the one before.
const LANES: usize = 32;

/// What is in the head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// The embedder's name.
    pub embedder: String,
    /// Numbers in a vector.
    pub dimensions: usize,
    /// Vectors in a row.
    pub views: usize,
    /// Rows.
    pub rows: usize,
    /// SHA-256 of what was embedded.
    pub content: [u8; 32],
}

/// The vectors of one index.
pub struct Matrix {
    head: Head,
    map: Mmap,
}

impl Matrix {
    /// Writes a matrix of whole rows, each of `views` vectors of `dimensions`, and waits until it is on the disk.
    pub fn write(
        path: &Path,
        embedder: &str,
        content: &[u8; 32],
        (dimensions, views): (usize, usize),
        values: &[f32],
    ) -> std::io::Result<()> {
        let unfit = |why: &str| std::io::Error::other(why.to_owned());
        if embedder.len() > NAME_MAX {
            return Err(unfit("the embedder's name is too long"));
        }
        let row = dimensions * views;
        if row == 0 || !values.len().is_multiple_of(row) {
            return Err(unfit("the vectors are no whole rows"));
        }
        let body: &[u8] = bytemuck::cast_slice(values);
        let mut head = [0u8; HEAD];
        head[..8].copy_from_slice(&MAGIC);
        head[8..16].copy_from_slice(&(dimensions as u64).to_ne_bytes());
        head[16..24].copy_from_slice(&((values.len() / row) as u64).to_ne_bytes());
        head[24..56].copy_from_slice(content);
        head[56..88].copy_from_slice(&Sha256::digest(body));
        head[88..96].copy_from_slice(&(embedder.len() as u64).to_ne_bytes());
        head[96..96 + embedder.len()].copy_from_slice(embedder.as_bytes());
        head[VIEWS_AT..VIEWS_AT + 8].copy_from_slice(&(views as u64).to_ne_bytes());
        let mut file = BufWriter::new(File::create_new(path)?);
        file.write_all(&head)?;
        file.write_all(body)?;
        file.into_inner().map_err(std::io::IntoInnerError::into_error)?.sync_all()
    }

    /// Maps a matrix and reads all of it once, so that a damaged one is found now and not by a wrong answer.
    /// The error says what is wrong with the file.
    pub fn open(path: &Path) -> Result<Self, String> {
        let file = File::open(path).map_err(|error| error.to_string())?;
        let map = ffi::map(&file).map_err(|error| error.to_string())?;
        if map.len() < HEAD || map[..8] != MAGIC {
            return Err("it is no matrix of this version of Viva".into());
        }
        let number = |at: usize| {
            let bytes: [u8; 8] = map[at..at + 8].try_into().expect("eight bytes were cut");
            usize::try_from(u64::from_ne_bytes(bytes)).ok()
        };
        let read = || {
            let (dimensions, rows, length, views) = (number(8)?, number(16)?, number(88)?, number(VIEWS_AT)?);
            let name = map.get(96..96usize.checked_add(length).filter(|end| *end <= VIEWS_AT)?)?;
            let row = dimensions.checked_mul(views)?;
            let body = row.checked_mul(rows)?.checked_mul(4)?.checked_add(HEAD)?;
            let embedder = String::from_utf8(name.to_vec()).ok()?;
            (row > 0 && body == map.len()).then_some((embedder, dimensions, views, rows))
        };
        let (embedder, dimensions, views, rows) = read().ok_or("its length is not what its head says")?;
        if Sha256::digest(&map[HEAD..])[..] != map[56..88] {
            return Err("its vectors are not those that were written".into());
        }
        let content = map[24..56].try_into().expect("32 bytes were cut");
        let head = Head { embedder, dimensions, views, rows, content };
        Ok(Self { head, map })
    }

    /// What is in the head.
    pub fn head(&self) -> &Head {
        &self.head
    }

    fn values(&self) -> &[f32] {
        // A mapping begins at a page and HEAD is a multiple of four, so this is always aligned.
        bytemuck::cast_slice(&self.map[HEAD..])
    }

    /// How near a row is to a query: the product with the nearest of its views. None beyond the last row.
    pub fn nearness(&self, query: &[f32], row: usize) -> Option<f32> {
        let length = self.head.dimensions * self.head.views;
        let at = row.checked_mul(length)?;
        let views = self.values().get(at..at + length)?.chunks_exact(self.head.dimensions);
        views.map(|view| dot(query, view)).max_by(f32::total_cmp)
    }

    /// The `n` rows of `among` nearest to `query` with how near they are, nearest first; of equally near ones the
    /// first. Rows beyond the last are passed over.
    pub fn nearest(&self, query: &[f32], among: impl Iterator<Item = u32>, n: usize) -> Vec<(u32, f32)> {
        debug_assert_eq!(query.len(), self.head.dimensions);
        let among: Vec<u32> = among.collect();
        if among.len() * self.head.views * self.head.dimensions < SHARED_FROM {
            return self.nearest_of(query, &among, n);
        }
        let (some, others) = among.split_at(among.len() / 2);
        let mut all = std::thread::scope(|scope| {
            let aside = scope.spawn(|| self.nearest_of(query, some, n));
            let here = self.nearest_of(query, others, n);
            // A thread that could not go on is done over here.
            [aside.join().unwrap_or_else(|_| self.nearest_of(query, some, n)), here].concat()
        });
        first(&mut all, n);
        all
    }

    fn nearest_of(&self, query: &[f32], among: &[u32], n: usize) -> Vec<(u32, f32)> {
        let scored = among.iter().filter_map(|row| Some((*row, self.nearness(query, *row as usize)?)));
        let mut scored: Vec<(u32, f32)> = scored.collect();
        first(&mut scored, n);
        scored
    }
}

/// Keeps the `n` nearest rows, nearest first.
fn first(scored: &mut Vec<(u32, f32)>, n: usize) {
    let order = |a: &(u32, f32), b: &(u32, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
    if (1..scored.len()).contains(&n) {
        scored.select_nth_unstable_by(n - 1, order);
    }
    scored.truncate(n);
    scored.sort_by(order);
}

/// The product of two vectors of one length: of unit vectors, their cosine. Sums run in lanes because that
/// is what a compiler makes vector instructions of; it may not reorder a single sum.
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    let (a_lanes, a_rest) = a.as_chunks::<LANES>();
    let (b_lanes, b_rest) = b.as_chunks::<LANES>();
    let mut sums = [0.0f32; LANES];
    for (a, b) in a_lanes.iter().zip(b_lanes) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += a * b;
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f32>() + rest
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const DIMENSIONS: usize = 40;

    /// Rows of unit length that are all different.
    fn rows(n: usize) -> Vec<f32> {
        let mut values = Vec::new();
        for row in 0..n {
            let vector: Vec<f32> = (0..DIMENSIONS).map(|d| ((row * 31 + d * 17) as f32).sin()).collect();
            let length = vector.iter().map(|v| v * v).sum::<f32>().sqrt();
            values.extend(vector.iter().map(|v| v / length));
        }
        values
    }

    fn written(n: usize) -> (tempfile::TempDir, std::path::PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vectors");
        Matrix::write(&path, "minilm", &[7; 32], (DIMENSIONS, 1), &rows(n)).unwrap();
        (folder, path)
    }

    #[test]
    fn the_nearest_rows_are_those_a_slow_search_finds() {
        let (_folder, path) = written(500);
        let matrix = Matrix::open(&path).unwrap();
        let (values, query) = (rows(500), rows(501)[500 * DIMENSIONS..].to_vec());
        let slow = |row: &[f32]| row.iter().zip(&query).map(|(a, b)| a * b).sum::<f32>();
        let mut expected: Vec<(u32, f32)> =
            values.chunks(DIMENSIONS).enumerate().map(|(i, row)| (i as u32, slow(row))).collect();
        expected.sort_by(|a, b| b.1.total_cmp(&a.1));
        let found = matrix.nearest(&query, 0..500, 20);
        assert_eq!(found.len(), 20);
        for (found, expected) in found.iter().zip(&expected) {
            assert_eq!(found.0, expected.0);
            assert!((found.1 - expected.1).abs() < 1e-5);
        }
        let even: Vec<u32> =
            matrix.nearest(&query, (0..500).step_by(2), 20).iter().map(|hit| hit.0).collect();
        assert!(even.iter().all(|row| row % 2 == 0) && even.len() == 20);
        assert!(matrix.nearest(&query, 0..500, 0).is_empty());
        assert_eq!(matrix.nearest(&query, 498..9_000, 20).len(), 2);
    }

    #[test]
    fn a_row_is_as_near_as_the_nearest_of_its_views() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vectors");
        let (values, query) = (rows(6), &rows(6)[3 * DIMENSIONS..4 * DIMENSIONS]);
        Matrix::write(&path, "minilm", &[7; 32], (DIMENSIONS, 2), &values).unwrap();
        let matrix = Matrix::open(&path).unwrap();
        // The query is the second view of the second row.
        let found = matrix.nearest(query, 0..9, 5);
        assert_eq!((found.len(), found[0].0), (3, 1));
        assert!((found[0].1 - 1.0).abs() < 1e-5);
        for (row, cosine) in found {
            let of =
                |view: usize| dot(query, &values[(row as usize * 2 + view) * DIMENSIONS..][..DIMENSIONS]);
            assert_eq!(cosine, of(0).max(of(1)));
        }
        let uneven = Matrix::write(&path.with_extension("b"), "minilm", &[7; 32], (DIMENSIONS, 4), &values);
        assert!(uneven.is_err(), "six vectors are no rows of four");
    }

    #[test]
    fn two_threads_find_what_one_does() {
        let n = SHARED_FROM / DIMENSIONS + 2;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vectors");
        Matrix::write(&path, "minilm", &[7; 32], (DIMENSIONS, 1), &rows(n)).unwrap();
        let matrix = Matrix::open(&path).unwrap();
        let query = rows(500)[77 * DIMENSIONS..][..DIMENSIONS].to_vec();
        let all: Vec<u32> = (0..n as u32).collect();
        let found = matrix.nearest(&query, 0..n as u32, 50);
        assert_eq!(found, matrix.nearest_of(&query, &all, 50));
        assert!(found.iter().any(|hit| hit.0 > n as u32 / 2) && found.iter().any(|hit| hit.0 < n as u32 / 2));
    }

    #[test]
    fn the_head_says_what_is_in_it() {
        let (_folder, path) = written(3);
        let head = Matrix::open(&path).unwrap().head().clone();
        assert_eq!(
            head,
            Head { embedder: "minilm".into(), dimensions: DIMENSIONS, views: 1, rows: 3, content: [7; 32] }
        );
    }

    #[test]
    fn a_damaged_file_is_refused_wherever_it_is_damaged() {
        let (_folder, path) = written(3);
        let whole = std::fs::read(&path).unwrap();
        for at in [0, 9, 17, 60, 95, VIEWS_AT, HEAD, whole.len() - 1] {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x55;
            std::fs::write(&path, damaged).unwrap();
            assert!(Matrix::open(&path).is_err(), "byte {at}");
        }
        for length in [0, 1, HEAD - 1, HEAD, whole.len() - 1] {
            std::fs::write(&path, &whole[..length]).unwrap();
            assert!(Matrix::open(&path).is_err(), "{length} bytes");
        }
    }
}
