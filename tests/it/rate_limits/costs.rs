//! What a request costs, by its method and by what its origin says.

use super::{OK, behind};
use crate::support::client::{ask, get};
use crate::support::origin::Origin;
use crate::support::proxy::Running;
use crate::support::within;

/// A limit of 10 that does not fill up again, by what the origin says, with a cache.
const LIMIT: &str = "cache = {}\n\
    [route.rate_limit]\nrate = 1\nper = \"1h\"\nburst = 10\ncost_header = \"X-Cost\"\n";

/// An origin that has something to be validated each time, and says `first` of it; `then`
/// is what it answers to whoever has it.
async fn validated(first: &'static str, then: &'static str) -> Origin {
    Origin::scripted(move |mut connection| async move {
        while let Some(request) = connection.request().await {
            let answer = if request.to_ascii_lowercase().contains("if-none-match") {
                format!("{then}Content-Length: 0\r\n\r\n")
            } else {
                format!(
                    "HTTP/1.1 200 OK\r\nCache-Control: max-age=0, stale-if-error=600\r\n\
                     ETag: \"a\"\r\n{first}Content-Length: 2\r\n\r\nok"
                )
            };
            connection.write(answer).await;
        }
    })
    .await
}

async fn passed(proxy: &Running) -> usize {
    for number in 0..20 {
        if get(proxy.address, "/", "").await.status == 429 {
            return number;
        }
    }
    panic!("nothing was refused");
}

#[tokio::test]
async fn a_stored_cost_is_not_charged_again_when_the_response_is_validated() {
    within(async {
        for then in ["HTTP/1.1 304 Not Modified\r\n", "HTTP/1.1 500 Failed\r\n"] {
            let origin = validated("X-Cost: 5\r\n", then).await;
            let proxy = behind(&origin, LIMIT).start();
            // Five for the first, and one for each of the others.
            assert_eq!(passed(&proxy).await, 6, "{then}");
            assert_eq!(origin.requests().len(), 6, "{then}");
        }
    })
    .await;
}

#[tokio::test]
async fn what_an_origin_says_that_validates_is_charged() {
    within(async {
        for then in
            ["HTTP/1.1 304 Not Modified\r\nX-Cost: 4\r\n", "HTTP/1.1 500 Failed\r\nX-Cost: 4\r\n"]
        {
            let origin = validated("", then).await;
            let proxy = behind(&origin, LIMIT).start();
            // One for the first, four for the second and the third, and one that is left.
            assert_eq!(passed(&proxy).await, 4, "{then}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_cost_that_clients_see_is_of_the_answer_that_they_had_the_origin_give() {
    within(async {
        let origin = validated("X-Cost: 2\r\n", "HTTP/1.1 304 Not Modified\r\n").await;
        let proxy = behind(&origin, &format!("{LIMIT}keep_cost_header = true\n")).start();
        assert_eq!(get(proxy.address, "/", "").await.field("x-cost"), Some("2"));
        assert_eq!(get(proxy.address, "/", "").await.field("x-cost"), None);
    })
    .await;
}

#[tokio::test]
async fn no_method_that_costs_more_is_smuggled_past_the_limit_in_a_field() {
    within(async {
        let origin = Origin::answering(OK).await;
        let costs = "costs = [{ methods = [\"POST\"], cost = 5 }]\n";
        let limit = |more: &str| {
            let limit = "[route.rate_limit]\nrate = 1\nper = \"1h\"\nburst = 10\n";
            behind(&origin, &format!("{limit}{more}"))
        };
        for (field, costs, passes) in [
            ("X-HTTP-Method-Override", costs, false),
            ("X_Method_Override", costs, false),
            ("X-HTTP-Method-Override", "", true),
        ] {
            let proxy = limit(costs).start();
            assert_eq!(get(proxy.address, "/", &format!("{field}: POST\r\n")).await.status, 200);
            let asked = origin.requests().pop().unwrap().to_ascii_lowercase();
            assert_eq!(asked.contains(&field.to_ascii_lowercase()), passes, "{asked}");
        }
    })
    .await;
}

#[tokio::test]
async fn what_a_dry_run_lets_through_has_taken_nothing_before_its_cost_is_known() {
    within(async {
        let origin = Origin::scripted(|mut connection| async move {
            while let Some(request) = connection.request().await {
                let cost = if request.starts_with("POST") { "X-Cost: 4\r\n" } else { "" };
                connection
                    .write(format!("HTTP/1.1 200 OK\r\n{cost}Content-Length: 0\r\n\r\n"))
                    .await;
            }
        })
        .await;
        let limit = "[[route.rate_limit]]\nname = \"tried\"\nrate = 1\nper = \"1h\"\nburst = 5\ndry_run = true\n\
            cost_header = \"X-Cost\"\ncosts = [{ methods = [\"POST\"], cost = 4 }]\n";
        let proxy = behind(&origin, limit).start();
        let post = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n";
        for _ in 0..3 {
            assert_eq!(get(proxy.address, "/", "").await.status, 200);
        }
        // Two are left, which is too little for four: the origin says that it took them.
        assert_eq!(ask(proxy.address, post).await.status, 200);
        let would_refuse = async || {
            let metrics = super::metrics(&proxy).await;
            let line = "tollgate_rate_limit_dry_run_total{route=\"all\",limit=\"tried\"} ";
            let count = metrics.lines().find_map(|known| known.strip_prefix(line));
            count.unwrap().parse::<u32>().unwrap()
        };
        assert_eq!(would_refuse().await, 1);
        assert_eq!(get(proxy.address, "/", "").await.status, 200);
        assert_eq!(would_refuse().await, 2, "the origin said that it was used up");
    })
    .await;
}
