// SPDX-License-Identifier: Apache-2.0
//! Every example table of `contract/runtime.md` sections 5 and 6.

use atomix_config::{PrimitiveType, Service};
use serde_json::json;

use super::*;

fn store(name: &str) -> StoreId {
    StoreId { namespace: String::new(), name: name.to_owned() }
}

fn texts(words: &str) -> Vec<String> {
    words.split_whitespace().map(str::to_owned).collect()
}

fn seed_route(name: &str, tags: &str) -> SeedRoute {
    SeedRoute { store: store(name), tags: texts(tags), services: Vec::new() }
}

fn bare(name: &str) -> LaterRoute {
    LaterRoute { store: store(name), rules: Vec::new() }
}

/// A rule from words: `type=Map/v1 name=a tag=b`.
fn rule(words: &str) -> Rule {
    let mut rule = Rule::default();
    for word in words.split_whitespace() {
        match word.split_once('=').unwrap() {
            ("type", of) => {
                let (name, version) = of.split_once('/').unwrap_or((of, ""));
                rule.primitive_type =
                    Some(PrimitiveType { name: name.to_owned(), version: version.to_owned() });
            }
            ("name", name) => rule.names.push(name.to_owned()),
            ("tag", tag) => rule.tags.push(tag.to_owned()),
            _ => panic!("{word}"),
        }
    }
    rule
}

fn route(name: &str, rules: &[&str]) -> LaterRoute {
    LaterRoute { store: store(name), rules: rules.iter().map(|words| rule(words)).collect() }
}

fn placed(routes: &[LaterRoute], kind: Kind, name: &str, tags: &str) -> Option<String> {
    let routes = Routes::Later(routes.to_vec());
    let placed = routes.place(kind, name, &texts(tags)).ok().map(|placement| placement.store_id.name);
    let explained =
        routes.explain(kind, "", name, &texts(tags)).placement.map(|placement| placement.store_id.name);
    assert_eq!(placed, explained, "explaining must not differ from doing");
    placed
}

fn is(name: &str) -> Option<String> {
    (!name.is_empty()).then(|| name.to_owned())
}

#[test]
fn seed_routes_match_when_the_primitive_has_all_their_tags() {
    for (route, primitive, matches) in [
        ("", "a b", true),
        ("", "", true),
        ("a", "", false),
        ("a", "a", true),
        ("a", "a a", true),
        ("a", "a b", true),
        ("a b", "a b", true),
        ("a b", "a", false),
    ] {
        let routes = Routes::Seed(vec![seed_route("s", route)]);
        assert_eq!(
            routes.place(Kind::Map, "m", &texts(primitive)).is_ok(),
            matches,
            "{route:?} {primitive:?}"
        );
    }
}

#[test]
fn the_first_seed_route_that_matches_wins() {
    let routes = Routes::Seed(vec![seed_route("one", "a"), seed_route("two", ""), seed_route("three", "a")]);
    assert_eq!(routes.place(Kind::Map, "m", &texts("a")).unwrap().store_id.name, "one");
    assert_eq!(routes.place(Kind::Map, "m", &[]).unwrap().store_id.name, "two");
}

#[test]
fn seed_services_give_configs_under_both_names_and_filter_nothing() {
    let config = json!({"cache": {"enabled": true}}).as_object().unwrap().clone();
    for name in ["atomix.runtime.map.v1.Map", "atomix.map.v1.Map"] {
        let services = vec![Service { name: name.to_owned(), config: config.clone() }];
        let routes = Routes::Seed(vec![SeedRoute { store: store("s"), tags: Vec::new(), services }]);
        assert_eq!(routes.place(Kind::Map, "m", &[]).unwrap().config, config);
        assert_eq!(routes.place(Kind::Set, "s", &[]).unwrap().config, JsonObject::new());
    }
}

#[test]
fn the_examples_of_the_original_unit_test_hold() {
    let r1 = || bare("store1");
    let r2 = || route("store2", &["tag=tag1"]);
    let r3 = || {
        let mut route = route("store3", &["type=Set/v1"]);
        route.rules[0].config = json!({"cache": {"enabled": true}}).as_object().unwrap().clone();
        route
    };
    let r4 = || route("store4", &["name=primitive1"]);
    for (routes, first, second) in [
        (vec![r1(), r2()], "store1", "store2"),
        (vec![r2(), r1()], "store1", "store2"),
        (vec![r1(), r3()], "store1", "store3"),
        (vec![r1(), r4()], "store4", "store1"),
    ] {
        assert_eq!(placed(&routes, Kind::Map, "primitive1", ""), is(first));
        assert_eq!(placed(&routes, Kind::Set, "primitive2", "tag1"), is(second));
    }
    let placement = Routes::Later(vec![r1(), r3()]).place(Kind::Set, "primitive2", &texts("tag1")).unwrap();
    assert_eq!(placement.config, r3().rules[0].config);
}

#[test]
fn the_further_examples_of_the_contract_hold() {
    let ab = [route("A", &["name=*"]), route("B", &["name=foo"])];
    assert_eq!(placed(&ab, Kind::Map, "foo", ""), is("B"));
    assert_eq!(placed(&ab, Kind::Map, "bar", ""), is("A"));

    let s = || route("S", &["type=Map tag=cached", "type=Set name=cached-set"]);
    assert_eq!(placed(&[s()], Kind::Map, "m", "cached"), is("S"));
    assert_eq!(placed(&[s()], Kind::Map, "m", ""), None);
    assert_eq!(placed(&[s()], Kind::Set, "cached-set", ""), is("S"));
    assert_eq!(placed(&[s()], Kind::Map, "cached-set", "cached"), None);
    assert_eq!(placed(&[s(), bare("D")], Kind::Set, "s", "cached"), None);
    assert_eq!(placed(&[s(), bare("D")], Kind::Map, "m", ""), is("D"));

    let mut tags = vec![
        route("multi", &["tag=persistent tag=partitioned"]),
        route("raft", &["tag=persistent"]),
        route("mem", &["tag=volatile"]),
    ];
    assert_eq!(placed(&tags, Kind::Map, "m", "persistent partitioned"), is("multi"));
    assert_eq!(placed(&tags, Kind::Map, "m", "persistent"), is("raft"));
    assert_eq!(placed(&tags, Kind::Map, "m", "partitioned"), None);
    assert_eq!(placed(&tags, Kind::Map, "m", "persistent volatile"), is("raft"));
    assert_eq!(placed(&tags, Kind::Map, "m", ""), None);
    tags.reverse();
    assert_eq!(placed(&tags, Kind::Map, "m", "persistent partitioned"), is("multi"));

    let starred = [route("A", &["name=* name=foo"])];
    assert_eq!(placed(&starred, Kind::Map, "bar", ""), None);
    assert_eq!(placed(&starred, Kind::Map, "foo", ""), is("A"));

    assert_eq!(placed(&[route("A", &["name=x type=Set"]), bare("D")], Kind::Map, "x", ""), None);
    assert_eq!(placed(&[route("A", &["type=Map"]), bare("D")], Kind::Map, "x", ""), is("A"));
    assert_eq!(placed(&[route("A", &["type=Map/v2"]), bare("D")], Kind::Map, "x", ""), is("D"));
    assert_eq!(placed(&[bare("E"), route("A", &["name=*"])], Kind::Map, "x", ""), is("E"));
    assert_eq!(placed(&[route("A", &["name=*"]), bare("E")], Kind::Map, "x", ""), is("A"));
    assert_eq!(placed(&[route("A", &["name=x tag=t"]), bare("D")], Kind::Map, "x", ""), None);
    assert_eq!(placed(&[bare("E"), route("T", &["type=Map"])], Kind::Map, "x", ""), is("T"));
}

#[test]
fn a_missing_route_is_denied_and_says_how_to_find_out() {
    let error = Routes::Later(vec![route("A", &["name=x"])]).place(Kind::Map, "y", &[]).unwrap_err();
    assert_eq!(error.reason(), Reason::NoRoute);
    assert!(error.message().contains("atomix route explain"));
}

#[test]
fn an_explanation_names_what_each_step_left() {
    let routes = Routes::Later(vec![route("S", &["type=Map tag=cached"]), bare("D")]);
    let explanation = routes.explain(Kind::Set, "v1", "s", &texts("cached"));
    assert_eq!(explanation.placement, None);
    let left: Vec<_> = explanation.steps.iter().map(|step| (step.name, step.remaining.len())).collect();
    assert_eq!(left, [("name", 2), ("tags", 1), ("type", 0), ("choice", 0)]);
}

#[test]
fn every_mistake_is_named_with_its_place() {
    let mut wrong = route("A", &["type=Map", "type=Bogus"]);
    wrong.rules[1].config.insert("cach".to_owned(), json!({}));
    let routes = Routes::Later(vec![bare("D"), wrong]);
    let mistakes: Vec<String> =
        routes.mistakes().iter().map(|(key, error)| format!("{key}: {error}")).collect();
    assert_eq!(mistakes.len(), 2, "{mistakes:?}");
    let kind = "routes[1].rules[1].type.name: no such type: type=`Bogus` types=`Counter, CounterMap,";
    assert!(mistakes[0].starts_with(kind), "{mistakes:?}");
    assert!(mistakes[1].starts_with("routes[1].rules[1].config: ") && mistakes[1].contains("cach"));
}
