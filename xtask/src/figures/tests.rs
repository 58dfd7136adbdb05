//! Of results made up here, and of those of the project.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::chart::{Bars, Line, Lines, Scale, short};
use super::compare::compare;
use super::{Error, Table, document};

const TEXT: &str = "# kind: counted\n# date: today\nwhat\ttask\tms\na\tone\t1,234.5\nb\tone\t2\na\ttwo\t10487218\n";

fn tables() -> BTreeMap<String, Table> {
    BTreeMap::from([("t".to_owned(), Table::parse("t", TEXT).unwrap())])
}

#[test]
fn the_document_is_what_the_results_give() {
    let project = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let files = super::make(&project).unwrap_or_else(|error| panic!("{error}"));
    for (path, wanted) in &files {
        let found = fs::read_to_string(project.join(path)).unwrap_or_default();
        assert!(
            found == *wanted,
            "{} is not what results and template give; run make bench-draw",
            path.display()
        );
    }
    for entry in fs::read_dir(project.join("docs/pictures")).unwrap() {
        let name = Path::new("docs/pictures").join(entry.unwrap().file_name());
        assert!(
            files.contains_key(&name),
            "{}: nothing draws it any more",
            name.display()
        );
    }
    let document = &files[Path::new("docs/performance.md")];
    for name in files
        .keys()
        .filter_map(|path| path.strip_prefix("docs").ok())
    {
        let name = name.display().to_string();
        assert!(
            name == "performance.md" || document.contains(&format!("]({name})")),
            "{name} is not shown"
        );
    }
}

#[test]
fn marks_become_what_the_tables_hold() {
    let fill = |line: &str| {
        document::fill(line, &tables())
            .map(|text| text.lines().skip(2).collect::<Vec<_>>().join("\n"))
    };
    assert_eq!(fill("no mark").unwrap(), "no mark");
    assert_eq!(
        fill("<{{value t/b/ms}}, {{value t/a/ms}}>").unwrap(),
        "<2, 1,234.5>"
    );
    assert_eq!(
        fill("{{table t task=one}}").unwrap(),
        "| | ms |\n|---|---|\n| a | 1,234.5 |\n| b | 2 |"
    );
    let all = fill("{{table t}}").unwrap();
    assert_eq!(all.lines().count(), 5);
    assert!(all.ends_with("| a | two | 10,487,218 |"), "{all}");
    assert!(
        fill("{{about t}}")
            .unwrap()
            .contains("kind: counted; date: today")
    );
    assert_eq!(fill("{{picture p A b}}").unwrap(), "![A b](pictures/p.svg)");
}

#[test]
fn what_is_not_there_is_named() {
    let told = |line: &str| document::fill(line, &tables()).unwrap_err().to_string();
    assert!(
        told("{{table other}}").contains("other.tsv"),
        "{}",
        told("{{table other}}")
    );
    assert!(told("{{table t task=three}}").contains("'three'"));
    assert!(told("{{value t/c/ms}}").contains("'c'"));
    assert!(told("{{value t/a/s}}").contains("'s'"));
    for bad in [
        "{{tabel t}}",
        "{{table t",
        "{{value t/a}}",
        "{{picture p}}",
        "{{about}}",
    ] {
        assert!(told(bad).contains("is no mark"), "{bad}");
    }
}

#[test]
fn damaged_results_are_refused() {
    assert!(matches!(
        Table::parse("t", "# kind: x\n"),
        Err(Error::Empty(_))
    ));
    let short = Table::parse("t", "a\tb\n1\t2\n3\n");
    assert!(
        matches!(
            short,
            Err(Error::Fields {
                line: 3,
                found: 1,
                wanted: 2,
                ..
            })
        ),
        "{short:?}"
    );
    let table = Table::parse("t", TEXT).unwrap();
    assert_eq!(table.number(&table.rows[0], "ms").unwrap(), 1234.5);
    assert!(matches!(
        table.number(&table.rows[0], "task"),
        Err(Error::NoNumber { .. })
    ));
}

#[test]
fn pictures_hold_their_names_and_an_element_for_each_thing() {
    let bars = Bars {
        title: "A title".into(),
        axis: "ms".into(),
        parts: vec!["first".into(), "second".into()],
        bars: vec![
            ("one".into(), vec![1.0, 2.0]),
            ("other".into(), vec![4.0, 0.5]),
        ],
    };
    let svg = bars.svg().unwrap();
    for word in ["A title", "ms", "first", "second", "one", "other", "4.50"] {
        assert!(
            svg.contains(&format!("\n{word}\n")),
            "{word} is not in {svg}"
        );
    }
    let line = |name: &str, guide| Line {
        name: name.into(),
        points: vec![(1.0, 10.0), (100.0, 1000.0)],
        guide,
    };
    let mut lines = Lines {
        title: "Lines".into(),
        axes: ["x".into(), "y".into()],
        ticks: vec![1.0, 10.0, 100.0],
        tick: short,
        lines: vec![line("data", false), line("", true)],
        scale: Scale::Both,
    };
    let svg = lines.svg().unwrap();
    assert_eq!(svg.matches("<circle").count(), 2, "marks of the data alone");
    assert_eq!(svg, lines.svg().unwrap());
    lines.lines[0].points[0].1 = 0.0;
    assert!(
        matches!(lines.svg(), Err(Error::Draw(_))),
        "zero has no logarithm"
    );
    lines.lines.clear();
    assert!(matches!(lines.svg(), Err(Error::Draw(_))));
    assert!(matches!(
        Bars {
            bars: Vec::new(),
            ..bars
        }
        .svg(),
        Err(Error::Draw(_))
    ));
}

#[test]
fn numbers_have_as_many_digits_as_can_be_seen() {
    for (value, wanted) in [
        (0.0, "0"),
        (1234567.0, "1,234,567"),
        (420.69, "421"),
        (42.06, "42.1"),
        (3.0197, "3.02"),
        (0.12345, "0.123"),
    ] {
        assert_eq!(short(value), wanted);
    }
}

#[test]
fn figures_that_grow_by_more_than_a_twentieth_fail() {
    let table = |with: &str, ms: &str, end: &str, calls: &str| {
        let text = format!(
            "# with: {with}\nfigure\tone\tother\nms to user space\t{ms}\t-\nms to the end\t{end}\t3\nsystem calls\t{calls}\t9\n"
        );
        Table::parse("counts", &text).unwrap()
    };
    let committed = table("a", "40", "50", "600");
    let verdict = |measured: &Table| {
        let verdict = compare(&committed, measured).unwrap();
        (verdict.bad, verdict.better)
    };
    assert_eq!(verdict(&committed), (0, 0));
    assert_eq!(verdict(&table("a", "41.9", "60.4", "632")), (0, 0));
    assert_eq!(verdict(&table("a", "42.1", "60.6", "634")), (3, 0));
    assert_eq!(
        verdict(&table("b", "42.1", "60.6", "634")),
        (0, 0),
        "of other versions ten percent"
    );
    assert_eq!(verdict(&table("b", "47.1", "60.6", "664")), (2, 0));
    assert_eq!(
        verdict(&table("a", "35", "50", "500")),
        (0, 2),
        "better is no failure"
    );
    assert_eq!(
        verdict(&table("a", "-", "50", "600")),
        (1, 0),
        "what is not measured is one"
    );
    assert_eq!(
        verdict(&table("a", "40", "50", "0")),
        (1, 0),
        "nothing counted is no improvement"
    );
    assert_eq!(
        verdict(&Table::parse("counts", "# with: a\nfigure\tone\nms to user space\t40\n").unwrap()),
        (4, 0)
    );
    let text = compare(&committed, &table("b", "47.1", "50", "600"))
        .unwrap()
        .text;
    for word in [
        "10 %",
        "committed: a",
        "here: b",
        "40 ->       47.100    +17.8 %  WORSE",
    ] {
        assert!(text.contains(word), "{word} is not in {text}");
    }
}
