//! How long a query takes: the search alone in 5,598 and in 100,000 rows, and with the vector of the query made by
//! the profile's embedder. `cargo bench --bench bank`; VIVA_PROFILE=quality measures mpnet.
//!
//! The 100,000 rows are the bank's own eighteen times over under other ids, which keeps words as frequent as they
//! are. Vectors of rows are made up: exact search takes as long whatever is in them.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use viva::config::Config;
use viva::engines::embedder;
use viva::knowledge::bank::{Bank, Category, Level, Record};
use viva::knowledge::embedding::{Alone, Embedding, Haste};
use viva::knowledge::eval::labels;
use viva::knowledge::index::Index;
use viva::knowledge::store::{Edition, Filter, Ranking, Search, VectorStore};

/// Queries of each kind: enough that ten are beyond the 95th percentile.
const QUERIES: usize = 200;

/// Questions embedded to see how fast that goes.
const TEXTS: usize = 400;

/// Vectors of a question, as a published bank has.
const VIEWS: usize = 4;

/// Rows of the large index.
const LARGE: usize = 100_000;

#[tokio::main]
async fn main() {
    let mut config = Config::default();
    if let Ok(profile) = std::env::var("VIVA_PROFILE") {
        config.models.profile = profile;
    }
    // One thread, as the server has.
    let alone = Arc::new(Alone::open(&embedder(&config, 1).unwrap()).unwrap());
    let bank = Bank::general().unwrap();
    let rows = bank.records().len();
    let texts: Vec<String> =
        bank.records().iter().take(TEXTS).map(|record| record.question.clone()).collect();
    let began = Instant::now();
    let dimensions = alone.embed(texts, Haste::Index).await.unwrap()[0].len();
    let each_second = TEXTS as f64 / began.elapsed().as_secs_f64();
    println!("embedder\t{}\t{dimensions} numbers\t{each_second:.0} questions a second", alone.name());
    println!("rows\tranking\tfilter\twith the vector\tqueries\tp50 ms\tp95 ms\tp99 ms");

    let folder = tempfile::tempdir().unwrap();
    let index = Index::open(folder.path(), alone.name()).unwrap();
    for rows in [rows, LARGE] {
        let vectors = made_up(rows * VIEWS, dimensions);
        publish(&index, alone.name(), many(bank.records(), rows), vectors, dimensions).await;
        measure(&index, &alone, rows).await;
    }
}

async fn publish(index: &Index, embedder: &str, records: Vec<Record>, vectors: Vec<f32>, dimensions: usize) {
    let rows = records.len();
    let edition = Edition { embedder: embedder.into(), dimensions, content: [rows as u8; 32], rows };
    let began = Instant::now();
    index.publish(edition, records, vectors).await.unwrap();
    println!("publish\t{rows} rows\t{:.1} s", began.elapsed().as_secs_f64());
}

/// The bank over and over.
fn many(records: &[Record], rows: usize) -> Vec<Record> {
    let again = |n: usize| {
        let mut record = records[n % records.len()].clone();
        record.id = format!("{}.{}", record.id, n / records.len());
        record
    };
    (0..rows).map(again).collect()
}

/// Vectors of length 1 in all directions.
fn made_up(rows: usize, dimensions: usize) -> Vec<f32> {
    let mut random = StdRng::seed_from_u64(1);
    let mut values = Vec::with_capacity(rows * dimensions);
    for _ in 0..rows {
        let vector: Vec<f32> = (0..dimensions).map(|_| random.random_range(-1.0..1.0)).collect();
        let length = vector.iter().map(|v| v * v).sum::<f32>().sqrt();
        values.extend(vector.iter().map(|v| v / length));
    }
    values
}

async fn measure(index: &Index, alone: &Alone, rows: usize) {
    let all = labels().unwrap();
    let queries: Vec<String> =
        all.iter().step_by(all.len() / QUERIES).take(QUERIES).map(|label| label.query.clone()).collect();
    let vectors = alone.embed(queries.clone(), Haste::Query).await.unwrap();
    let narrow = Filter {
        category: Some(Category::Technical),
        levels: vec![Level::Senior, Level::Lead],
        difficulty: 3..=5,
        ..Filter::default()
    };
    for (name, filter) in [("none", Filter::default()), ("narrow", narrow)] {
        for ranking in [Ranking::Dense, Ranking::Text, Ranking::Fused] {
            for with_vector in [false, true] {
                if with_vector && (ranking != Ranking::Fused || name == "narrow") {
                    continue;
                }
                let mut times = Vec::new();
                for (query, vector) in queries.iter().zip(&vectors) {
                    let (mut vector, filter) = (vector.clone(), filter.clone());
                    let began = Instant::now();
                    if with_vector {
                        vector = alone.embed(vec![query.clone()], Haste::Query).await.unwrap().remove(0);
                    }
                    let search = Search { text: query.clone(), vector, filter, ranking, n: 10 };
                    index.search(search).await.unwrap();
                    times.push(began.elapsed());
                }
                times.sort();
                let at = |share: f64| ms(times[((times.len() as f64 * share) as usize).min(times.len() - 1)]);
                println!(
                    "{rows}\t{ranking:?}\t{name}\t{with_vector}\t{}\t{:.2}\t{:.2}\t{:.2}",
                    times.len(),
                    at(0.5),
                    at(0.95),
                    at(0.99)
                );
            }
        }
    }
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
