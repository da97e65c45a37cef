//! Vectors through the server's scheduler.

use std::sync::Arc;
use std::time::Duration;

use viva::config::Config;
use viva::engines::embedder;
use viva::knowledge::embedding::{Alone, Embedding, Haste, Scheduled};
use viva_actors::root::{Limits, Viva};
use viva_actors::testkit::{self, Costs};
use viva_models::registry::{EmbedSpec, open_embed};

fn spec() -> EmbedSpec {
    embedder(&Config::default(), 1).unwrap()
}

async fn start() -> Viva {
    let spec = spec();
    let mut engines = testkit::engines(Costs::FREE, "Well.", &Arc::default());
    engines.embed = Some(Arc::new(move || open_embed(&spec)));
    Viva::start(engines, Limits { sessions: 1, ..Limits::default() }).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn they_are_those_the_engine_gives_and_come_side_by_side() {
    let viva = start().await;
    let scheduled = Arc::new(Scheduled::new(viva.clone(), spec().name()));
    let alone = Alone::open(&spec()).unwrap();
    assert_eq!(scheduled.name(), alone.name());
    let texts: Vec<String> =
        (0..12).map(|n| format!("What did you learn from mistake number {n}?")).collect();
    let expected = alone.embed(texts.clone(), Haste::Query).await.unwrap();
    let tasks: Vec<_> = texts
        .into_iter()
        .map(|text| {
            let scheduled = Arc::clone(&scheduled);
            tokio::spawn(async move { scheduled.embed(vec![text], Haste::Query).await.unwrap().remove(0) })
        })
        .collect();
    for (task, expected) in tasks.into_iter().zip(expected) {
        let got = task.await.unwrap();
        let cosine: f32 = got.iter().zip(&expected).map(|(a, b)| a * b).sum();
        assert!(cosine > 0.999, "{cosine}");
    }
    viva.drain(Duration::ZERO).await;
    // What comes after the end is still answered, or fails; nobody waits for ever.
    let late = scheduled.embed(vec!["late".into()], Haste::Query);
    let late = tokio::time::timeout(Duration::from_secs(30), late).await.expect("an answer or an error");
    println!("after the end: {:?}", late.map(|vectors| vectors.len()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scheduler_that_dies_costs_one_attempt() {
    let viva = start().await;
    let scheduled = Scheduled::new(viva.clone(), spec().name());
    scheduled.embed(vec!["before".into()], Haste::Query).await.unwrap();
    viva.panic_scheduler();
    tokio::time::sleep(Duration::from_millis(200)).await;
    let vectors = scheduled.embed(vec!["after".into()], Haste::Query).await.unwrap();
    assert_eq!(vectors.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_an_embedder_says_so() {
    let viva = Viva::start(
        testkit::engines(Costs::FREE, "Well.", &Arc::default()),
        Limits { sessions: 1, ..Limits::default() },
    )
    .await
    .unwrap();
    let scheduled = Scheduled::new(viva, "minilm-int8".into());
    let error = scheduled.embed(vec!["x".into()], Haste::Query).await.unwrap_err().to_string();
    assert!(error.contains("no embed engine is configured"), "{error}");
}
