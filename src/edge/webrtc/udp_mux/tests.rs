#![allow(clippy::unwrap_used)]
use super::stun::tests::check;
use super::*;
use webrtc::runtime::Runtime;

const PASSWORD: &str = "the password of twenty-two";

fn address(n: u16) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 7], n))
}

fn peers(names: &[(&str, PeerId)]) -> Peers {
    let mut peers = Peers::default();
    for (name, id) in names {
        let (inbox, _) = mpsc::channel(QUEUE);
        let (inbox6, _) = mpsc::channel(QUEUE);
        let names = vec![((*name).to_owned(), PASSWORD.to_owned())];
        let entry = Entry { names, addresses: Vec::new(), inbox, inbox6, heard: Arc::default() };
        peers.by_id.insert(*id, entry);
        peers.by_name.insert((*name).to_owned(), *id);
    }
    peers
}

#[test]
fn an_address_is_learned_from_a_check_that_proves_itself_and_from_nothing_else() {
    let mut peers = peers(&[("ours", 1)]);
    let now = Instant::now();
    let media = [0x80, 111, 0, 0];
    assert_eq!(peers.of(address(1), &media, now), Err("unknown_address"));
    let forged = check("ours:theirs", "another password of twenty-two");
    assert_eq!(peers.of(address(1), &forged, now), Err("unproved"));
    assert_eq!(peers.of(address(1), &media, now), Err("unknown_address"), "nothing was learned");
    assert_eq!(peers.of(address(1), &check("other:theirs", PASSWORD), now), Err("unknown_name"));
    assert_eq!(peers.of(address(1), &check("ours:theirs", PASSWORD), now), Ok(1));
    assert_eq!(peers.of(address(1), &media, now), Ok(1));
    assert_eq!(peers.of(address(2), &media, now), Err("unknown_address"));
    assert_eq!(peers.of(address(1), &[99, 1, 2], now), Err("no_protocol"));
}

#[test]
fn an_address_goes_to_the_peer_that_proved_itself_from_it_last() {
    let mut peers = peers(&[("one", 1), ("two", 2)]);
    let now = Instant::now();
    let media = [0x80, 111, 0, 0];
    peers.of(address(1), &check("one:x", PASSWORD), now).unwrap();
    assert_eq!(peers.of(address(1), &check("two:x", "another password of twenty-two"), now), Err("unproved"));
    assert_eq!(peers.of(address(1), &media, now), Ok(1));
    peers.of(address(1), &check("two:x", PASSWORD), now).unwrap();
    assert_eq!(peers.of(address(1), &media, now), Ok(2));
    peers.remove(1);
    assert_eq!(peers.of(address(1), &media, now), Ok(2), "whoever had it before takes nothing along");
}

#[test]
fn addresses_are_bounded_expire_and_go_with_their_peer() {
    let mut peers = peers(&[("ours", 1)]);
    let now = Instant::now();
    for n in 0..100 {
        peers.of(address(n), &check("ours:theirs", PASSWORD), now + Duration::from_millis(n.into())).unwrap();
    }
    assert_eq!(peers.by_address.len(), ADDRESSES_MAX);
    assert!(peers.by_address.contains_key(&address(99)), "the newest stays");
    let later = now + ADDRESS_EXPIRES + Duration::from_secs(1);
    peers.of(address(200), &check("ours:theirs", PASSWORD), later).unwrap();
    assert_eq!(peers.by_address.len(), 1, "the others were not used for too long");
    peers.remove(1);
    assert!(peers.by_address.is_empty() && peers.by_name.is_empty() && peers.by_id.is_empty());
}

#[tokio::test]
async fn a_seat_answers_to_its_last_two_names_and_leaves_nothing() {
    let mux = UdpMux::bind(&["127.0.0.1:0".parse().unwrap()], None).unwrap();
    let (seat, _runtime) = mux.join();
    for name in ["a", "b", "c", "c"] {
        seat.answer_to(name, PASSWORD);
    }
    let names: Vec<String> = {
        let peers = mux.tables.lock();
        let mut names: Vec<String> = peers.by_name.keys().cloned().collect();
        names.sort();
        names
    };
    assert_eq!(names, ["b", "c"]);
    drop(seat);
    assert_eq!(mux.known(), (0, 0));
    assert!(mux.tables.lock().by_name.is_empty());
}

#[tokio::test]
async fn a_flood_of_junk_reaches_nobody_and_a_peer_is_served_after_it() {
    let mux = UdpMux::bind(&["127.0.0.1:0".parse().unwrap()], None).unwrap();
    let (seat, runtime) = mux.join();
    seat.answer_to("ours", PASSWORD);
    let socket = runtime.wrap_udp_socket(std::net::UdpSocket::bind("127.0.0.1:0").unwrap()).unwrap();
    let caller = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let to = mux.addresses()[0];
    for n in 0..2_000_u32 {
        let kind = [0, 22, 0x80, 99][n as usize % 4];
        let junk: Vec<u8> =
            (0..60).map(|i| if i == 0 { kind } else { (n.wrapping_mul(31) >> (i % 24)) as u8 }).collect();
        caller.send_to(&junk, to).await.unwrap();
        if n % 100 == 0 {
            tokio::task::yield_now().await;
        }
    }
    let mut buffer = [0; 1500];
    let heard = async {
        loop {
            caller.send_to(&check("ours:theirs", PASSWORD), to).await.unwrap();
            let received =
                tokio::time::timeout(Duration::from_millis(100), socket.recv_from(&mut buffer)).await;
            if let Ok(received) = received {
                return received.unwrap();
            }
        }
    };
    let (length, from) = tokio::time::timeout(Duration::from_secs(10), heard).await.unwrap();
    assert_eq!(
        stun::kind(&buffer[..length]),
        Kind::Stun,
        "the first thing that reaches the peer is its check"
    );
    assert_eq!(from, caller.local_addr().unwrap());
    assert!(seat.heard().last().is_some());
}
