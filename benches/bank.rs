//! How long a query takes: the search alone in 5,598 and in 100,000 rows, and with the vector of the query made by
//! the profile's embedder. `cargo bench --bench bank`; VIVA_PROFILE=quality measures mpnet.
//!
//! The 100,000 rows are the bank's own eighteen times over: texts are repeated with other ids, which keeps the
//! words as frequent as they are, and vectors are turned a little, so that no two are the same.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use viva::config::Config;
use viva::engines::embedder;
use viva::knowledge::bank::{Bank, Category, Level, Record};
use viva::knowledge::embedding::{Alone, Embedding, Haste};
use viva::knowledge::eval::labels;
use viva::knowledge::index::Index;
use viva::knowledge::publish::vectors;
use viva::knowledge::store::{Edition, Filter, Ranking, Search, VectorStore};

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
    let began = Instant::now();
    let vectors = vectors(bank.records(), &*alone, |_| {}).await.unwrap().concat();
    let rows = bank.records().len();
    let dimensions = vectors.len() / rows;
    let seconds = began.elapsed().as_secs_f64();
    println!(
        "embedder\t{}\t{dimensions} numbers\t{:.0} questions a second",
        alone.name(),
        rows as f64 / seconds
    );
    println!("rows\tranking\tfilter\twith the vector\tqueries\tp50 ms\tp95 ms\tp99 ms");

    let folder = tempfile::tempdir().unwrap();
    let index = Index::open(folder.path(), alone.name()).unwrap();
    publish(&index, alone.name(), bank.records().to_vec(), vectors.clone()).await;
    measure(&index, &alone, rows).await;
    let (records, vectors) = many(bank.records(), &vectors, dimensions);
    publish(&index, alone.name(), records, vectors).await;
    measure(&index, &alone, LARGE).await;
}

async fn publish(index: &Index, embedder: &str, records: Vec<Record>, vectors: Vec<f32>) {
    let (rows, dimensions) = (records.len(), vectors.len() / records.len());
    let edition = Edition { embedder: embedder.into(), dimensions, content: [rows as u8; 32], rows };
    let began = Instant::now();
    index.publish(edition, records, vectors).await.unwrap();
    println!("publish\t{rows} rows\t{:.1} s", began.elapsed().as_secs_f64());
}

/// The bank over and over.
fn many(records: &[Record], vectors: &[f32], dimensions: usize) -> (Vec<Record>, Vec<f32>) {
    let (mut more, mut values) = (Vec::with_capacity(LARGE), Vec::with_capacity(LARGE * dimensions));
    for n in 0..LARGE {
        let at = n % records.len();
        let mut record = records[at].clone();
        record.id = format!("{}.{}", record.id, n / records.len());
        more.push(record);
        let vector = &vectors[at * dimensions..(at + 1) * dimensions];
        let turned: Vec<f32> =
            vector.iter().enumerate().map(|(d, v)| v + 0.01 * ((n * 31 + d * 7) as f32).sin()).collect();
        let length = turned.iter().map(|v| v * v).sum::<f32>().sqrt();
        values.extend(turned.iter().map(|v| v / length));
    }
    (more, values)
}

async fn measure(index: &Index, alone: &Alone, rows: usize) {
    let queries: Vec<String> = labels().unwrap().into_iter().map(|label| label.query).collect();
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
                for query in &queries {
                    let mut began = Instant::now();
                    let vector = alone.embed(vec![query.clone()], Haste::Query).await.unwrap().remove(0);
                    if !with_vector {
                        began = Instant::now();
                    }
                    let filter = filter.clone();
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
