//! The sentences of RFC 9111, one test each; names carry the section.

use super::*;

fn fields(lines: &[(&'static str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in lines {
        headers.append(*name, value.parse().unwrap());
    }
    headers
}

fn store_with(
    asked: Asked,
    status: u16,
    lines: &[(&'static str, &str)],
    settings: &CacheSettings,
) -> Result<(), Why> {
    let headers = fields(lines);
    let status = StatusCode::from_u16(status).unwrap();
    s3_may_store(asked, status, &headers, &Control::of(&headers), settings)
}

fn store(asked: Asked, status: u16, lines: &[(&'static str, &str)]) -> Result<(), Why> {
    store_with(asked, status, lines, &CacheSettings::default())
}

fn cc(asked: Asked, value: &str) -> Result<(), Why> {
    store(asked, 200, &[("cache-control", value)])
}

const ANYBODY: Asked = Asked { credentials: false, cookie: false, no_store: false };

#[test]
fn s3_a_response_with_explicit_expiration_is_stored_whatever_its_status() {
    for status in [200, 302, 404, 500, 599] {
        assert_eq!(store(ANYBODY, status, &[("cache-control", "max-age=1")]), Ok(()), "{status}");
    }
    assert_eq!(store(ANYBODY, 200, &[("expires", "0")]), Ok(()));
    assert_eq!(cc(ANYBODY, "s-maxage=1"), Ok(()));
    assert_eq!(cc(ANYBODY, "public"), Ok(()));
}

#[test]
fn s3_no_store_and_private_are_not_stored() {
    assert_eq!(cc(ANYBODY, "max-age=9, no-store"), Err("no-store"));
    assert_eq!(cc(ANYBODY, "max-age=9, private"), Err("private"));
    assert_eq!(cc(ANYBODY, "max-age=9, private=\"x\""), Ok(()));
    assert_eq!(cc(Asked { no_store: true, ..ANYBODY }, "max-age=9"), Err("request-no-store"));
}

#[test]
fn s3_a_response_that_says_nothing_is_stored_by_its_status_and_last_modified_only() {
    let modified = ("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT");
    assert_eq!(store(ANYBODY, 200, &[modified]), Ok(()));
    assert_eq!(store(ANYBODY, 201, &[modified]), Err("no-lifetime"));
    assert_eq!(store(ANYBODY, 200, &[]), Err("no-lifetime"));
    let default_ttl = Some(Duration::from_secs(1));
    let told = CacheSettings { default_ttl, ..CacheSettings::default() };
    assert_eq!(store_with(ANYBODY, 200, &[], &told), Ok(()));
    assert_eq!(store_with(ANYBODY, 500, &[], &told), Err("no-lifetime"));
}

#[test]
fn s3_what_is_validated_before_each_use_is_stored_if_it_can_be() {
    let no_cache = ("cache-control", "no-cache");
    assert_eq!(store(ANYBODY, 200, &[no_cache, ("etag", "\"a\"")]), Ok(()));
    assert_eq!(store(ANYBODY, 200, &[no_cache]), Err("no-lifetime"));
}

#[test]
fn s3_parts_are_not_stored() {
    assert_eq!(store(ANYBODY, 206, &[("cache-control", "max-age=9")]), Err("partial"));
}

#[test]
fn s3_5_a_response_to_authorization_is_stored_only_if_it_is_for_all() {
    let asked = Asked { credentials: true, ..ANYBODY };
    assert_eq!(cc(asked, "max-age=9"), Err("authorization"));
    assert_eq!(cc(asked, "max-age=9, must-revalidate"), Err("authorization"));
    assert_eq!(cc(asked, "max-age=9, public"), Ok(()));
    assert_eq!(cc(asked, "s-maxage=9"), Ok(()));
}

#[test]
fn s7_3_what_carries_a_cookie_is_stored_only_if_it_is_for_all() {
    let asked = Asked { cookie: true, ..ANYBODY };
    assert_eq!(cc(asked, "max-age=9"), Err("cookie"));
    assert_eq!(cc(asked, "max-age=9, public"), Ok(()));
    let sets = |control| store(ANYBODY, 200, &[("cache-control", control), ("set-cookie", "a=b")]);
    assert_eq!(sets("max-age=9"), Err("set-cookie"));
    assert_eq!(sets("s-maxage=9"), Err("set-cookie"));
    assert_eq!(sets("max-age=9, public"), Ok(()));
    let told = CacheSettings { store_set_cookie: true, ..CacheSettings::default() };
    let lines = [("cache-control", "max-age=9"), ("set-cookie", "a=b")];
    assert_eq!(store_with(ANYBODY, 200, &lines, &told), Ok(()));
    assert_eq!(store_with(asked, 200, &lines, &told), Err("cookie"));
    let mut headers = fields(&lines);
    let own = s3_1_stored_fields(&mut headers, &Control::of(&fields(&lines)), &told);
    assert!(own.is_empty() && headers.contains_key("set-cookie"));
}

#[test]
fn s5_2_2_3_must_understand_goes_past_no_store_if_the_status_is_understood() {
    assert_eq!(cc(ANYBODY, "max-age=9, no-store, must-understand"), Ok(()));
    for odd in [299, 599] {
        let odd = store(ANYBODY, odd, &[("cache-control", "max-age=9, must-understand")]);
        assert_eq!(odd, Err("status-not-understood"));
    }
}

#[test]
fn s4_1_vary_star_matches_nothing() {
    let lines = [("cache-control", "max-age=9"), ("vary", "accept, *")];
    assert_eq!(store(ANYBODY, 200, &lines), Err("vary"));
}

/// 1994, Nov 6.
const THEN: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
const A_MINUTE_LATER: &str = "Sun, 06 Nov 1994 08:50:37 GMT";

fn then() -> SystemTime {
    httpdate::parse_http_date(THEN).unwrap()
}

fn lifetime(lines: &[(&'static str, &str)]) -> u64 {
    let headers = fields(lines);
    let (status, settings) = (StatusCode::OK, CacheSettings::default());
    s4_2_1_lifetime(status, &headers, &Control::of(&headers), then(), &settings).as_secs()
}

#[test]
fn s4_2_1_s_maxage_before_max_age_before_expires() {
    let expires = ("expires", A_MINUTE_LATER);
    let date = ("date", THEN);
    assert_eq!(lifetime(&[("cache-control", "max-age=5, s-maxage=7"), expires, date]), 7);
    assert_eq!(lifetime(&[("cache-control", "max-age=5"), expires, date]), 5);
    assert_eq!(lifetime(&[expires, date]), 60);
    assert_eq!(lifetime(&[expires]), 60, "without `Date` it counts from its receipt");
}

#[test]
fn s5_3_what_is_no_date_is_in_the_past() {
    assert_eq!(lifetime(&[("expires", "0"), ("date", THEN)]), 0);
    let two = [("expires", A_MINUTE_LATER), ("expires", THEN), ("date", THEN)];
    assert_eq!(lifetime(&two), 0);
    assert_eq!(lifetime(&[("expires", THEN), ("date", A_MINUTE_LATER)]), 0);
}

#[test]
fn s4_2_2_a_guess_is_a_tenth_of_the_time_since_it_was_modified_up_to_a_day() {
    let guess = |date| lifetime(&[("last-modified", THEN), ("date", date)]);
    assert_eq!(guess(A_MINUTE_LATER), 6);
    assert_eq!(guess("Mon, 06 Nov 1995 08:49:37 GMT"), 24 * 60 * 60);
    assert_eq!(lifetime(&[("last-modified", A_MINUTE_LATER), ("date", THEN)]), 0);
}

#[test]
fn s4_2_2_nothing_is_guessed_where_something_is_said() {
    let old = [("last-modified", THEN), ("date", "Mon, 06 Nov 1995 08:49:37 GMT")];
    for said in [("cache-control", "max-age=0"), ("expires", "0"), ("cache-control", "s-maxage=x")]
    {
        assert_eq!(lifetime(&[old[0], old[1], said]), 0, "{said:?}");
    }
}

#[test]
fn s5_2_2_9_public_lets_a_lifetime_be_guessed_whatever_the_status() {
    let lifetime = |control: &str| {
        let headers = fields(&[
            ("last-modified", THEN),
            ("date", A_MINUTE_LATER),
            ("cache-control", control),
        ]);
        let (status, settings) = (StatusCode::CREATED, CacheSettings::default());
        s4_2_1_lifetime(status, &headers, &Control::of(&headers), then(), &settings).as_secs()
    };
    assert_eq!((lifetime("public"), lifetime("x")), (6, 0));
}

#[test]
fn rfc9213_s2_1_a_targeted_field_leaves_expires_unheard() {
    let lines = [("cdn-cache-control", "max-age=9"), ("expires", A_MINUTE_LATER), ("date", THEN)];
    assert_eq!(lifetime(&lines), 9);
    let lines = [("cdn-cache-control", "public"), ("expires", A_MINUTE_LATER), ("date", THEN)];
    assert_eq!(lifetime(&lines), 0);
}

#[test]
fn s4_2_3_the_age_is_the_larger_of_what_is_said_and_what_the_clocks_show() {
    let age = |lines: &[(&'static str, &str)], later, delay| {
        let (later, delay) = (Duration::from_secs(later), Duration::from_secs(delay));
        s4_2_3_initial_age(&fields(lines), then() + later, delay).as_secs()
    };
    assert_eq!(age(&[("date", THEN)], 30, 0), 30);
    assert_eq!(age(&[("date", THEN), ("age", "100")], 30, 5), 105);
    assert_eq!(age(&[("date", A_MINUTE_LATER)], 0, 2), 2, "a clock that is ahead is no age");
    assert_eq!(age(&[("age", "7, 9")], 0, 0), 7);
    assert_eq!(age(&[("age", "-7")], 0, 0), 0);
}

fn freshness(control: &str, age: u64) -> Freshness {
    let age = age.to_string();
    let headers = fields(&[("cache-control", control), ("age", &age)]);
    let settings = CacheSettings::default();
    Freshness::of(StatusCode::OK, &headers, &Control::of(&headers), Duration::ZERO, &settings)
}

fn reuse(control: &str, age: u64, request: Option<&str>) -> Use {
    let request = request.map(|said| Directives::of(&fields(&[("cache-control", said)])));
    let freshness = freshness(control, age);
    freshness.s4_reuse(request.as_ref(), freshness.received)
}

#[test]
fn s4_2_a_response_is_fresh_until_it_is_as_old_as_its_lifetime() {
    assert_eq!(reuse("max-age=10", 9, None), Use::Fresh);
    assert_eq!(reuse("max-age=10", 10, None), Use::Validate);
    let stored = freshness("max-age=10", 0);
    let at = |seconds| stored.received + Duration::from_secs(seconds);
    assert!(stored.is_fresh(at(9)) && !stored.is_fresh(at(10)));
    assert_eq!((stored.ttl(at(4)), stored.ttl(at(12))), (6, -2));
}

#[test]
fn s5_2_2_4_no_cache_is_validated_before_each_use() {
    assert_eq!(reuse("max-age=10, no-cache", 0, None), Use::Validate);
    assert_eq!(reuse("max-age=10, no-cache=\"x\"", 0, None), Use::Fresh);
}

#[test]
fn rfc5861_s3_it_is_used_while_it_is_revalidated() {
    assert_eq!(reuse("max-age=1, stale-while-revalidate=5", 5, None), Use::StaleWhileRevalidating);
    assert_eq!(reuse("max-age=1, stale-while-revalidate=5", 6, None), Use::Validate);
}

#[test]
fn rfc5861_s4_it_stands_in_for_an_origin_that_fails() {
    let may = |control, age| {
        let stored = freshness(control, age);
        stored.may_stand_in(stored.received)
    };
    assert!(may("max-age=1, stale-if-error=5", 5));
    assert!(!may("max-age=1, stale-if-error=5", 6));
    assert!(!may("max-age=1, stale-if-error=5, must-revalidate", 5));
    assert!(!may("max-age=1", 1));
}

#[test]
fn s4_2_4_what_forbids_it_is_never_used_stale() {
    for forbids in ["must-revalidate", "proxy-revalidate", "s-maxage=1"] {
        let control = format!("max-age=1, stale-while-revalidate=60, {forbids}");
        assert_eq!(reuse(&control, 5, Some("max-stale")), Use::Validate, "{forbids}");
    }
}

#[test]
fn s5_2_1_a_request_may_want_it_younger_fresher_or_take_it_stale() {
    assert_eq!(reuse("max-age=10", 5, Some("max-age=4")), Use::Validate);
    assert_eq!(reuse("max-age=10", 5, Some("max-age=5")), Use::Fresh);
    assert_eq!(reuse("max-age=10", 5, Some("min-fresh=6")), Use::Validate);
    assert_eq!(reuse("max-age=10", 5, Some("min-fresh=5")), Use::Fresh);
    assert_eq!(reuse("max-age=10", 5, Some("no-cache")), Use::Validate);
    assert_eq!(reuse("max-age=10", 15, Some("max-stale=5")), Use::Stale);
    assert_eq!(reuse("max-age=10", 16, Some("max-stale=5")), Use::Validate);
    assert_eq!(reuse("max-age=10", 5, None), Use::Fresh);
}

#[test]
fn rfc5861_what_was_purged_softly_is_validated_and_stands_in_for_an_origin_that_fails() {
    let stored = freshness("max-age=10, stale-while-revalidate=60, stale-if-error=60", 5);
    let condemned = Freshness { condemned: true, ..stored };
    let (now, later) = (condemned.received, condemned.received + Duration::from_secs(70));
    assert_eq!(condemned.s4_reuse(None, now), Use::Validate);
    assert!(condemned.may_stand_in(now) && condemned.outlives(now));
    assert!(!condemned.may_stand_in(later) && !condemned.outlives(later));
}

#[test]
fn rfc8246_s2_what_does_not_change_is_not_validated_because_a_page_is_loaded_again() {
    assert_eq!(reuse("max-age=10, immutable", 5, Some("max-age=0")), Use::Fresh);
    assert_eq!(reuse("max-age=10, immutable", 5, Some("no-cache")), Use::Validate);
    assert_eq!(reuse("max-age=10, immutable", 10, Some("max-age=0")), Use::Validate);
}

#[test]
fn s4_others_who_asked_at_the_same_time_may_have_what_need_not_be_validated() {
    let others = |control| {
        let stored = freshness(control, 5);
        stored.is_for_others(stored.received)
    };
    assert!(others("max-age=10") && others("max-age=1, stale-while-revalidate=60"));
    assert!(!others("max-age=10, no-cache") && !others("max-age=5"));
}

#[test]
fn s3_2_a_304_renews_all_but_what_describes_the_content() {
    let mut stored =
        fields(&[("etag", "\"a\""), ("content-length", "5"), ("x-a", "1"), ("x-b", "1")]);
    s3_2_merge(&mut stored, &fields(&[("x-a", "2"), ("x-a", "3"), ("content-length", "0")]));
    assert_eq!(stored["content-length"], "5");
    assert_eq!(stored.get_all("x-a").iter().collect::<Vec<_>>(), ["2", "3"]);
    assert_eq!(
        (&stored["x-b"], &stored["etag"]),
        (&"1".parse().unwrap(), &"\"a\"".parse().unwrap())
    );
}

#[test]
fn s4_3_1_a_validation_asks_by_all_validators_and_not_by_the_clients() {
    let mut request = fields(&[("if-none-match", "\"client\"")]);
    assert!(s4_3_1_validate(&mut request, &fields(&[("etag", "\"a\""), ("last-modified", THEN)])));
    assert_eq!(
        (&request["if-none-match"], &request["if-modified-since"]),
        (&"\"a\"".parse().unwrap(), &THEN.parse().unwrap())
    );
    assert!(!s4_3_1_validate(&mut request, &HeaderMap::new()));
    assert!(request.is_empty());
}

#[test]
fn s4_3_4_a_304_with_another_tag_is_about_something_else() {
    let stored = fields(&[("etag", "\"a\"")]);
    assert!(s4_3_4_is_about(&stored, &HeaderMap::new()));
    assert!(s4_3_4_is_about(&stored, &fields(&[("etag", "W/\"a\"")])));
    assert!(!s4_3_4_is_about(&stored, &fields(&[("etag", "\"b\"")])));
    let weak = fields(&[("etag", "W/\"a\"")]);
    assert!(s4_3_4_is_about(&weak, &fields(&[("etag", "W/\"a\"")])));
    assert!(!s4_3_4_is_about(&weak, &stored), "a strong tag names its equal only");
}

#[test]
fn s4_3_5_a_head_is_about_what_has_its_validators_and_its_length() {
    let stored = fields(&[("etag", "\"a\""), ("content-length", "5"), ("x", "1")]);
    let about = |lines: &[(&'static str, &str)]| s4_3_5_is_about(&stored, &fields(lines));
    assert!(about(&[]) && about(&[("etag", "\"a\""), ("content-length", "5"), ("x", "2")]));
    assert!(!about(&[("etag", "\"b\"")]) && !about(&[("content-length", "6")]));
    assert!(!about(&[("last-modified", THEN)]));
}

#[test]
fn s4_3_2_a_client_that_has_it_is_told_so() {
    let stored = fields(&[("etag", "\"a\""), ("last-modified", THEN)]);
    let known =
        |name, value: &str| s4_3_2_is_known(&fields(&[(name, value)]), StatusCode::OK, &stored);
    assert!(known("if-none-match", "\"x\", W/\"a\"") && known("if-none-match", "*"));
    assert!(!known("if-none-match", "\"x\""));
    assert!(known("if-modified-since", THEN) && known("if-modified-since", A_MINUTE_LATER));
    assert!(!known("if-modified-since", "Sat, 05 Nov 1994 08:49:37 GMT"));
    // RFC 9110 §13.2.2: the tag is asked for before the date.
    let both = fields(&[("if-none-match", "\"x\""), ("if-modified-since", THEN)]);
    assert!(!s4_3_2_is_known(&both, StatusCode::OK, &stored));
    assert!(!s4_3_2_is_known(&fields(&[("if-none-match", "*")]), StatusCode::NOT_FOUND, &stored));
}

#[test]
fn s3_1_what_is_for_one_client_only_is_not_stored() {
    let mut headers = fields(&[
        ("cache-control", "public, max-age=1, private=\"x-a\", no-cache=\"x-b\""),
        ("x-a", "1"),
        ("x-b", "1"),
        ("x-c", "1"),
        ("set-cookie", "a=b"),
    ]);
    let control = Control::of(&headers);
    let settings = CacheSettings::default();
    let own = s3_1_stored_fields(&mut headers, &control, &settings);
    assert_eq!(own.len(), 3, "the client that they are for gets them: {own:?}");
    let mut names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["cache-control", "date", "x-c"]);
}

#[test]
fn rfc9110_s14_2_a_range_is_taken_from_the_whole() {
    let stored = fields(&[("etag", "\"a\"")]);
    let of = |range: &str| super::range(&fields(&[("range", range)]), &stored, 10);
    assert_eq!(of("bytes=0-3"), Part::Of(0, 3));
    assert_eq!(of("bytes=4-"), Part::Of(4, 9));
    assert_eq!(of("bytes=4-99999999999"), Part::Of(4, 9));
    assert_eq!(of("bytes=-3"), Part::Of(7, 9));
    assert_eq!(of("bytes=-30"), Part::Of(0, 9));
    assert_eq!(of("bytes=10-"), Part::Unsatisfiable);
    assert_eq!(of("bytes=-0"), Part::Unsatisfiable);
    for whole in ["bytes=0-1,3-4", "bytes=3-1", "lines=1-2", "bytes=a-b", "bytes=-", "bytes=1-x"] {
        assert_eq!(of(whole), Part::Whole, "{whole}");
    }
    let if_range = |tag: &str| {
        super::range(&fields(&[("range", "bytes=0-0"), ("if-range", tag)]), &stored, 10)
    };
    assert_eq!(if_range("\"a\""), Part::Of(0, 0));
    assert_eq!(if_range("\"b\""), Part::Whole);
    assert_eq!(if_range("W/\"a\""), Part::Whole);
}
