#![allow(clippy::unwrap_used)]
use proptest::prelude::*;

use super::*;

/// What a browser sends, shortened.
pub const BROWSER: &str = "v=0\r\no=- 46117317 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0 1\r\n\
m=audio 9 UDP/TLS/RTP/SAVPF 111 63\r\nc=IN IP4 0.0.0.0\r\na=ice-ufrag:EsAw\r\n\
a=ice-pwd:P2uYro0UCOQ4zxjKXaWCBui1\r\na=fingerprint:sha-256 D2:B9:31:8F\r\na=setup:actpass\r\na=mid:0\r\n\
a=sendrecv\r\na=rtcp-mux\r\na=rtpmap:111 opus/48000/2\r\na=fmtp:111 minptime=10;useinbandfec=1\r\n\
m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\nc=IN IP4 0.0.0.0\r\na=ice-ufrag:EsAw\r\n\
a=ice-pwd:P2uYro0UCOQ4zxjKXaWCBui1\r\na=fingerprint:sha-256 D2:B9:31:8F\r\na=setup:actpass\r\na=mid:1\r\n\
a=sctp-port:5000\r\na=max-message-size:262144\r\n";

fn complaint(sdp: &str) -> String {
    Offer::check(sdp.as_bytes()).unwrap_err().message
}

#[test]
fn a_browsers_offer_is_taken_and_its_limit_on_messages_known() {
    let offer = Offer::check(BROWSER.as_bytes()).unwrap();
    assert_eq!((offer.channel, offer.event_max), (true, EVENT_MAX));
    let small = BROWSER.replace("max-message-size:262144", "max-message-size:16384");
    assert_eq!(Offer::check(small.as_bytes()).unwrap().event_max, 16_384);
}

#[test]
fn what_is_wrong_with_an_offer_is_named() {
    let without = |line: &str| {
        let kept: Vec<&str> = BROWSER.lines().filter(|l| !l.starts_with(line)).collect();
        kept.join("\r\n")
    };
    let video = format!("{BROWSER}m=video 9 UDP/TLS/RTP/SAVPF 96\r\n");
    let crowd = format!("{BROWSER}{}", "a=candidate:1 1 udp 1 192.0.2.1 9 typ host\r\n".repeat(65));
    for (sdp, named) in [
        ("", "empty"),
        ("hello", "v=0"),
        (without("m=audio").as_str(), "m=audio"),
        (video.as_str(), "leave video"),
        (without("a=rtpmap").as_str(), "Opus"),
        (without("a=ice-pwd").as_str(), "ICE credentials"),
        (without("a=ice-ufrag").as_str(), "ICE credentials"),
        (without("a=fingerprint").as_str(), "fingerprint"),
        (crowd.as_str(), "candidates"),
        (BROWSER.replace("size:262144", "size:huge").as_str(), "max-message-size"),
        (BROWSER.replace("P2uYro0UCOQ4zxjKXaWCBui1", "short").as_str(), "ICE credentials"),
        ("v=0\r\n".repeat(1_001).as_str(), "lines"),
    ] {
        assert!(complaint(sdp).contains(named), "{named}: {}", complaint(sdp));
    }
    assert!(Offer::check(&[0xFF, 0xFE]).unwrap_err().message.contains("UTF-8"));
    assert!(Offer::check(&vec![b'v'; OFFER_MAX + 1]).unwrap_err().message.contains("bytes"));
}

#[test]
fn an_answer_names_our_addresses_and_no_others() {
    let answer =
        BROWSER.replace("a=mid:0", "a=candidate:1 1 udp 2130706431 127.0.0.1 40000 typ host\r\na=mid:0");
    let ours = ["203.0.113.7:8790".parse().unwrap(), "[2001:db8::7]:8790".parse().unwrap()];
    let advertised = advertise(&answer, &ours);
    let candidates: Vec<&str> = advertised.lines().filter(|l| l.starts_with("a=candidate")).collect();
    assert_eq!(candidates.len(), 2);
    assert!(
        candidates[0].contains(" 203.0.113.7 8790 typ host") && candidates[1].contains(" 2001:db8::7 8790 ")
    );
    let (audio, channel) = advertised.split_once("m=application").unwrap();
    assert!(audio.contains("a=candidate") && audio.contains("a=end-of-candidates"));
    assert!(!channel.contains("a=candidate"), "one transport for all");
    assert_eq!(credentials(&advertised).unwrap().0, "EsAw");
}

proptest! {
    /// A real offer with lines exchanged, cut and repeated, or no offer at all: a verdict, never a panic, and what
    /// passes has what a peer is built from.
    #[test]
    fn any_text_has_a_verdict(
        order in prop::collection::vec((0_usize..40, 0_usize..60), 0..40),
        noise in "\\PC{0,40}",
    ) {
        let lines: Vec<&str> = BROWSER.lines().collect();
        let mut text = String::from("v=0\r\n");
        for (line, cut) in order {
            let line = lines[line % lines.len()];
            text.push_str(&line[..line.len() - cut.min(line.len()) * usize::from(cut > 50)]);
            text.push_str("\r\n");
        }
        text.push_str(&noise);
        if Offer::check(text.as_bytes()).is_ok() {
            prop_assert!(credentials(&text).is_some());
        }
        advertise(&text, &["127.0.0.1:1".parse().unwrap()]);
    }
}
