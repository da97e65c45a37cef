//! What every store must do, over the same records: run on the disk and on PostgreSQL.

use viva::knowledge::bank::{Category, Level, Record};
use viva::knowledge::publish::Published;
use viva::knowledge::store::{
    Edition, Filter, QUERY_CHARS_MAX, RESULTS_MAX, Ranking, Search, StoreError, VectorStore,
};

use crate::{DIMENSIONS, Letters, ids, published, record, search};

/// Questions of two owners and of nobody.
fn records() -> Vec<Record> {
    let mut records = vec![
        record("t.a.x.01", Category::Technical, "How do you dress a deep wound on the ward?"),
        record("t.a.x.02", Category::Technical, "Which valve would you close first in a boiler room?"),
        record("b.a.x.01", Category::Behavioral, "Tell me about a wound you dressed badly."),
        record("s.a.x.01", Category::SoftSkills, "A colleague shouts at you. What now?"),
    ];
    records[1].subcategory = "heating".into();
    records[1].industry = Some("energy".into());
    records[1].level = Level::Lead;
    records[1].difficulty = 5;
    for (id, owner) in [("t.ann.x.01", "ann"), ("t.bob.x.01", "bob")] {
        let mut own = record(id, Category::Technical, "How do you dress a deep wound at home?");
        own.owner = Some(owner.into());
        records.push(own);
    }
    records
}

fn filtered(text: &str, filter: Filter) -> Search {
    Search { filter, ..search(text) }
}

/// All of it.
pub async fn check(store: &dyn VectorStore) {
    assert_eq!(store.edition().await.unwrap(), None);
    let error = store.search(search("wound")).await.unwrap_err();
    assert!(
        matches!(error, StoreError::NoIndex(_)) && error.to_string().contains("viva bank index"),
        "{error}"
    );

    assert!(matches!(published(store, &records()).await, Published::Fresh(edition) if edition.rows == 6));
    assert!(matches!(published(store, &records()).await, Published::UpToDate(_)));
    finds(store).await;
    filters(store).await;
    never_crosses_owners(store).await;
    refuses(store).await;

    let mut fewer = records();
    fewer.remove(0);
    assert!(matches!(published(store, &fewer).await, Published::Fresh(edition) if edition.rows == 5));
    let left = ids(store, search("How do you dress a deep wound on the ward?")).await;
    assert!(!left.contains(&"t.a.x.01".to_owned()), "{left:?}");
    takes_many_views(store).await;
}

/// A question is found by whichever of its vectors is nearest.
async fn takes_many_views(store: &dyn VectorStore) {
    let two = [&records()[0], &records()[1]].map(Clone::clone).to_vec();
    let views = ["plaster and gauze", "a burst pipe", "steam at night", "an angry neighbour"];
    let vectors = views.map(Letters::vector).concat();
    let edition = |content| Edition { embedder: "letters".into(), dimensions: DIMENSIONS, content, rows: 2 };
    store.publish(edition([1; 32]), two.clone(), vectors.clone()).await.unwrap();
    for (text, id) in views.iter().zip(["t.a.x.01", "t.a.x.01", "t.a.x.02", "t.a.x.02"]) {
        let found = store.search(Search { ranking: Ranking::Dense, ..search(text) }).await.unwrap();
        assert_eq!((found.len(), &found[0].record.id[..]), (2, id), "{text}");
        assert!(found[0].distance < 1e-3 && found[1].distance > 0.3, "{text}: {found:?}");
    }
    let uneven = store.publish(edition([2; 32]), two, vectors[DIMENSIONS..].to_vec()).await.unwrap_err();
    assert!(matches!(uneven, StoreError::Asked(_)), "{uneven}");
    assert_eq!(store.edition().await.unwrap().unwrap().content, [1; 32]);
}

async fn finds(store: &dyn VectorStore) {
    let wanted = "How do you dress a deep wound on the ward?";
    let hits = store.search(search(wanted)).await.unwrap();
    assert_eq!(hits[0].record, records()[0]);
    assert!(hits[0].distance < 0.5, "{}", hits[0].distance);
    assert_eq!((hits[0].dense_rank, hits[0].text_rank), (Some(1), Some(1)));
    assert!(hits.windows(2).all(|two| two[0].score >= two[1].score));
    assert!(hits.iter().skip(1).all(|hit| hit.distance > 0.0 && hit.distance <= 2.0));

    // By words alone a word's other forms count, and a text without a word worth finding finds nothing.
    let by = |text: &str, ranking| Search { ranking, ..search(text) };
    assert_eq!(ids(store, by("boilers", Ranking::Text)).await, ["t.a.x.02"]);
    assert!(ids(store, by("what would you do", Ranking::Text)).await.is_empty());
    assert_eq!(ids(store, by("what would you do", Ranking::Dense)).await.len(), 4);
    // A word weighs less in a query that is itself a question.
    let score = |text| async move { store.search(search(text)).await.unwrap()[0].score };
    assert!(score("boilers boilers.").await > score("boilers boilers?").await);
    assert!(ids(store, Search { n: 0, ..search(wanted) }).await.is_empty());
    assert_eq!(ids(store, Search { n: 2, ..search(wanted) }).await.len(), 2);

    let both = ["b.a.x.01".to_owned(), "none".to_owned(), "t.a.x.01".to_owned()].to_vec();
    let got: Vec<String> = store.get(None, both).await.unwrap().into_iter().map(|r| r.id).collect();
    assert_eq!(got, ["b.a.x.01", "t.a.x.01"]);
    let page = store.browse(Filter::default(), 1, 2).await.unwrap();
    assert_eq!((page.total, page.records.len(), &page.records[0].id[..]), (4, 2, "s.a.x.01"));
    assert!(store.browse(Filter::default(), usize::MAX, 2).await.unwrap().records.is_empty());
}

async fn filters(store: &dyn VectorStore) {
    let all = |filter: Filter| filtered("a wound on the ward and a valve", Filter { ..filter });
    let found = |filter: Filter| async move {
        let mut found = ids(store, all(filter)).await;
        found.sort();
        found
    };
    let none = Filter::default;
    assert_eq!(found(none()).await.len(), 4);
    assert_eq!(found(Filter { category: Some(Category::Behavioral), ..none() }).await, ["b.a.x.01"]);
    assert_eq!(found(Filter { subcategory: Some("heating".into()), ..none() }).await, ["t.a.x.02"]);
    // A question of no industry fits every one.
    assert_eq!(found(Filter { industry: Some("energy".into()), ..none() }).await.len(), 4);
    assert_eq!(found(Filter { levels: vec![Level::Lead], ..none() }).await, ["t.a.x.02"]);
    assert_eq!(found(Filter { levels: vec![Level::Lead, Level::Mid], ..none() }).await.len(), 4);
    assert_eq!(found(Filter { difficulty: 4..=5, ..none() }).await, ["t.a.x.02"]);
    let exclude = vec!["t.a.x.01".to_owned(), "b.a.x.01".to_owned(), "s.a.x.01".to_owned()];
    assert_eq!(found(Filter { exclude, ..none() }).await, ["t.a.x.02"]);
    let nothing = Filter { category: Some(Category::SelfIntroduction), ..none() };
    assert!(found(nothing).await.is_empty());
}

async fn never_crosses_owners(store: &dyn VectorStore) {
    let text = "How do you dress a deep wound at home?";
    for (owner, own) in [(Some("ann"), "t.ann.x.01"), (Some("bob"), "t.bob.x.01")] {
        let filter = Filter { owner: owner.map(str::to_owned), ..Filter::default() };
        for ranking in [Ranking::Dense, Ranking::Text, Ranking::Fused] {
            let search = Search { ranking, n: 50, ..filtered(text, filter.clone()) };
            assert_eq!(ids(store, search).await, [own], "{ranking:?}");
        }
        assert_eq!(store.browse(filter, 0, 50).await.unwrap().total, 1);
        let everyone = ["t.ann.x.01", "t.bob.x.01", "t.a.x.01"].map(str::to_owned).to_vec();
        let got = store.get(owner, everyone).await.unwrap();
        assert_eq!(got.iter().map(|r| &r.id[..]).collect::<Vec<_>>(), [own]);
        let collections = store.collections(owner).await.unwrap();
        assert_eq!((collections.len(), &collections[0].name[..]), (1, "personal_technical_questions"));
    }
    for ranking in [Ranking::Dense, Ranking::Text, Ranking::Fused] {
        let found = ids(store, Search { ranking, n: 50, ..search(text) }).await;
        assert!(!found.is_empty() && found.iter().all(|id| id.contains(".a.")), "{found:?}");
    }
    assert!(store.get(None, vec!["t.ann.x.01".into()]).await.unwrap().is_empty());
    let nobody = Filter { owner: Some("carol".into()), ..Filter::default() };
    assert!(ids(store, filtered(text, nobody)).await.is_empty());
    let names: Vec<String> = store.collections(None).await.unwrap().into_iter().map(|c| c.name).collect();
    let general =
        ["general_technical_questions", "general_behavioral_questions", "general_soft_skills_questions"];
    assert_eq!(names, general);
}

async fn refuses(store: &dyn VectorStore) {
    let refused = |search: Search| async move { store.search(search).await.unwrap_err().to_string() };
    let error = refused(Search { text: "x".repeat(10_000), ..search("x") }).await;
    assert!(error.contains("10000") && error.contains(&QUERY_CHARS_MAX.to_string()), "{error}");
    let error = refused(Search { text: " \n".into(), ..search("x") }).await;
    assert!(error.contains("empty"), "{error}");
    let error = refused(Search { n: RESULTS_MAX + 1, ..search("x") }).await;
    assert!(error.contains("101"), "{error}");
    let error = refused(Search { vector: vec![0.0; 3], ..search("x") }).await;
    assert!(error.contains("3 numbers"), "{error}");
    #[allow(clippy::reversed_empty_ranges)]
    for difficulty in [0..=5, 1..=6, 4..=2] {
        let error = refused(filtered("x", Filter { difficulty, ..Filter::default() })).await;
        assert!(error.contains("within 1..=5"), "{error}");
    }
    let exclude = vec!["x".to_owned(); 1_001];
    let error = refused(filtered("x", Filter { exclude, ..Filter::default() })).await;
    assert!(error.contains("1001"), "{error}");

    for sql in ["' OR 1=1 --", "nursing'; DROP TABLE questions; --", "\" OR \"\"=\""] {
        for filter in [
            Filter { subcategory: Some(sql.into()), ..Filter::default() },
            Filter { industry: Some(sql.into()), ..Filter::default() },
        ] {
            let error = store.search(filtered("wound", filter.clone())).await.unwrap_err();
            assert!(matches!(error, StoreError::Unknown { .. }), "{error}");
            assert!(store.browse(filter, 0, 5).await.is_err());
        }
        let filter = Filter { owner: Some(sql.into()), ..Filter::default() };
        assert!(ids(store, filtered("wound", filter)).await.is_empty());
        let filter = Filter { exclude: vec![sql.into()], ..Filter::default() };
        assert_eq!(ids(store, filtered("wound", filter)).await.len(), 4);
        assert!(store.get(None, vec![sql.into()]).await.unwrap().is_empty());
        assert!(!ids(store, search(&format!("wound {sql}"))).await.is_empty());
    }
    for text in
        ["\"", "wound AND", "NEAR(wound", "wound*", "question:wound", "wound & | ! <-> :*", "\0 wound"]
    {
        assert!(!ids(store, search(text)).await.is_empty(), "{text:?}");
    }
}
