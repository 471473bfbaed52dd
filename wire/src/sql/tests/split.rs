//! Where one statement ends and the next begins.

use crate::sql::{is_single, split, tenant_comment};

#[track_caller]
fn check(text: &str, expected: &[&str]) {
    let found: Vec<_> = split(text, true).map(|range| text[range].trim()).collect();
    assert_eq!(found, expected, "{text}");
    assert_eq!(is_single(text, true), expected.len() < 2, "{text}");
}

#[test]
fn texts_without_statements_have_none() {
    for text in [
        "", " ", ";", " ; ;; ", "-- a", "/* ; */", "/* a */;", "--;\n;",
    ] {
        check(text, &[]);
    }
}

#[test]
fn semicolons_divide_only_where_they_end_a_statement() {
    check("select 1", &["select 1"]);
    check("select 1 ; ", &["select 1"]);
    check("select 1;; select 2;", &["select 1", "select 2"]);
    check(
        "select ';', \";\", $$;$$, E'\\';' /* ; */ -- ;\n; b",
        &["select ';', \";\", $$;$$, E'\\';' /* ; */ -- ;", "b"],
    );
    check("a;b;c", &["a", "b", "c"]);
    check(
        "/*+ hint */ select 1; -- two\n select 2",
        &["/*+ hint */ select 1", "-- two\n select 2"],
    );
    check(
        "create rule r as on insert to t do (select 1; select 2); x",
        &[
            "create rule r as on insert to t do (select 1; select 2)",
            "x",
        ],
    );
    check("a); b", &["a)", "b"]);
    check("a; 'b; c", &["a", "'b; c"]);
    check("a (b; c", &["a (b; c"]);
}

#[test]
fn bodies_of_sql_functions_stay_whole() {
    let function = "create function f() returns int begin atomic select 1; select case when true then 2 end; end";
    check(&format!("{function}; select 3"), &[function, "select 3"]);
    let names =
        "create or replace procedure p() begin atomic select 1 as end; select t.case from t; end";
    check(&format!("{names}; b"), &[names, "b"]);
    let plain = "create function f() returns int as 'begin; end' language plpgsql";
    check(&format!("{plain}; begin; end;"), &[plain, "begin", "end"]);
    check(
        "create table begin (a int); end; b",
        &["create table begin (a int)", "end", "b"],
    );
    check(
        "create function f(begin int) as $$;$$; b",
        &["create function f(begin int) as $$;$$", "b"],
    );
}

#[test]
fn backslashes_count_when_strings_do_not_conform() {
    let text = r"select 'a\'; b'; c";
    let found: Vec<_> = split(text, false).map(|range| &text[range]).collect();
    assert_eq!(found, [r"select 'a\'; b'", " c"]);
    check(text, &[r"select 'a\'", "b'; c"]);
}

#[test]
fn the_tenant_is_read_from_a_trailing_comment() {
    let tenant = |text: &str| tenant_comment(text, true).map(|(name, _)| name);
    let some = |id: &str| Some(id.to_owned());
    assert_eq!(tenant("select 1 /*tenantry_tenant='7'*/"), some("7"));
    assert_eq!(
        tenant("select 1; /* action='a%2Cb', tenantry_tenant='shop%2Da' */ ; \n"),
        some("shop-a")
    );
    assert_eq!(
        tenant("select 1 /* a */ /*tenantry_tenant='7'*/"),
        some("7")
    );
    for text in [
        "select 1",
        "/*tenantry_tenant='7'*/ select 1",
        "select '/*tenantry_tenant=''7''*/'",
        "select $$ /*tenantry_tenant='7'*/",
        "select 1 -- /*tenantry_tenant='7'*/",
        "select 1 /*tenantry_tenant='7'*/ /* later */",
        "select 1 /*tenantry_tenant=7*/",
        "select 1 /*tenantry_tenant=''*/",
        "select 1 /*tenantry_tenant='%zz'*/",
        "select 1 /*x_tenantry_tenant='7'*/",
    ] {
        assert_eq!(tenant(text), None, "{text}");
    }
}
