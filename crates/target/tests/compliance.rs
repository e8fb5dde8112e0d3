//! Keeps `docs/compliance.md` true: what its rows name exists, and what the target implements and cites is in it.
//!
//! How a row is read, by the names of its table's columns:
//! * `clause`: clause number and title; the standard is that of the heading above, unless the cell begins with another one.
//! * `code`: operation code and service action of commands (`9Eh/12h`). `key`: the text key.
//! * `where`, `test`: what stands in backticks: `file.rs: name, name`, in `test` also `Suite.Test` of libiscsi.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use ballast_target::scsi::opcodes::OPERATIONS;

/// Standards that have clauses in the table.
const STANDARDS: [&str; 7] = ["RFC 7143", "RFC 7144", "SAM-5", "SPC-2", "SPC-4", "SBC-3", "SBC-4"];
const NO_TEST: &str = "no test";

/// The tests of libiscsi's iscsi-test-cu (1.19) that run against this target and pass. Not among them are those that look at
/// nothing: they pass without a word on a disk that is not removable (NoMedia, PreventAllow, StartStopUnit), or may not do
/// what they would (Sanitize, ReadOnly, Control-SWP, the zero blocks of WriteSame); nor GetLBAStatus.UnmapSingle, which is wrong.
const LIBISCSI: &[(&str, &str)] = &[
    ("CompareAndWrite", "Simple DpoFua Miscompare Unwritten InvalidDataOutSize"),
    ("ExtendedCopy", "Simple ParamHdr DescrLimits DescrType ValidTgtDescr ValidSegDescr"),
    ("GetLBAStatus", "Simple BeyondEol"),
    ("Inquiry", "Standard AllocLength EVPD BlockLimits MandatoryVPDSBC SupportedVPD VersionDescriptors"),
    ("Mandatory", "MandatorySBC"),
    ("ModeSense6", "AllPages Control Control-D_SENSE Residuals"),
    ("MultipathIO", "Simple Reset CompareAndWrite CompareAndWriteAsync"),
    ("OrWrite", "Simple BeyondEol ZeroBlocks Protect DpoFua Verify"),
    ("Prefetch10", "Simple BeyondEol ZeroBlocks Flags"),
    ("Prefetch16", "Simple BeyondEol ZeroBlocks Flags"),
    ("PrinReadKeys", "Simple Truncate"),
    ("PrinReportCapabilities", "Simple"),
    ("PrinServiceactionRange", "Range"),
    ("ProutClear", "Simple"),
    ("ProutPreempt", "RemoveRegistration"),
    ("ProutRegister", "Simple"),
    (
        "ProutReserve",
        "Simple AccessEA AccessWE AccessEARO AccessWERO AccessEAAR AccessWEAR OwnershipEA OwnershipWE \
      OwnershipEARO OwnershipWERO OwnershipEAAR OwnershipWEAR",
    ),
    ("Read10", "Simple BeyondEol ZeroBlocks ReadProtect DpoFua Async"),
    ("Read12", "Simple BeyondEol ZeroBlocks ReadProtect DpoFua"),
    ("Read16", "Simple BeyondEol ZeroBlocks ReadProtect DpoFua"),
    ("Read6", "Simple BeyondEol"),
    ("ReadCapacity10", "Simple"),
    ("ReadCapacity16", "Simple Alloclen PI Support"),
    ("ReadDefectData10", "Simple"),
    ("ReadDefectData12", "Simple"),
    ("ReceiveCopyResults", "CopyStatus OpParams"),
    ("ReportSupportedOpcodes", "Simple OneCommand RCTD SERVACTV"),
    ("Reserve6", "Simple 2Initiators Logout ITNexusLoss TargetColdReset TargetWarmReset LUNReset"),
    ("TestUnitReady", "Simple"),
    ("Unmap", "Simple VPD ZeroBlocks"),
    ("Verify10", "Simple BeyondEol ZeroBlocks VerifyProtect Flags Dpo Mismatch MismatchNoCmp"),
    ("Verify12", "Simple BeyondEol ZeroBlocks VerifyProtect Flags Dpo Mismatch MismatchNoCmp"),
    ("Verify16", "Simple BeyondEol ZeroBlocks VerifyProtect Flags Dpo Mismatch MismatchNoCmp"),
    ("Write10", "Simple BeyondEol ZeroBlocks WriteProtect DpoFua Async"),
    ("Write12", "Simple BeyondEol ZeroBlocks WriteProtect DpoFua"),
    ("Write16", "Simple BeyondEol ZeroBlocks WriteProtect DpoFua"),
    ("WriteAtomic16", "Simple BeyondEol ZeroBlocks WriteProtect DpoFua VPD"),
    ("WriteSame10", "Simple BeyondEol WriteProtect Unmap UnmapUnaligned UnmapVPD Check InvalidDataOutSize"),
    ("WriteSame16", "Simple BeyondEol WriteProtect Unmap UnmapUnaligned UnmapVPD Check InvalidDataOutSize"),
    ("WriteVerify10", "Simple BeyondEol ZeroBlocks WriteProtect Flags Dpo"),
    ("WriteVerify12", "Simple BeyondEol ZeroBlocks WriteProtect Flags Dpo"),
    ("WriteVerify16", "Simple BeyondEol ZeroBlocks WriteProtect Flags Dpo"),
    (
        "iSCSIResiduals",
        "Read10Invalid Read10Residuals Read12Residuals Read16Residuals Write10Residuals Write12Residuals \
      Write16Residuals WriteVerify10Residuals WriteVerify12Residuals WriteVerify16Residuals",
    ),
    ("iSCSITMF", "AbortTaskSimpleAsync LUNResetSimpleAsync"),
    ("iSCSIcmdsn", "iSCSICmdSnTooHigh iSCSICmdSnTooLow"),
    ("iSCSIdatasn", "iSCSIDataSnInvalid"),
];

/// Modules in which text keys are known, and the strings there that are no keys.
const KEY_MODULES: [&str; 4] =
    ["iscsi/keys.rs", "iscsi/login/mod.rs", "iscsi/login/security.rs", "iscsi/session/control.rs"];
const NO_KEYS: [&str; 8] =
    ["CRC32C", "Discovery", "Irrelevant", "Normal", "NotUnderstood", "RFC3720", "Reject", "Silent"];

/// One row of a table: its cells by the names of the columns.
#[derive(Debug)]
struct Row {
    standard: &'static str,
    cells: BTreeMap<String, String>,
}

impl Row {
    fn cell(&self, column: &str) -> &str {
        self.cells.get(column).map_or("", String::as_str)
    }

    /// How a complaint names the row.
    fn name(&self) -> String {
        let first = ["code", "key"].map(|column| self.cell(column)).concat();
        format!("row \"{} {}\" {first}", self.standard, self.cell("clause"))
    }

    /// Standard and number of the clause.
    fn clause(&self) -> Option<(&'static str, Vec<u32>)> {
        let cell = self.cell("clause");
        let other = STANDARDS.into_iter().find_map(|name| Some((name, cell.strip_prefix(name)?.trim_start())));
        let (standard, text) = other.unwrap_or((self.standard, cell));
        Some((standard, number(text)?.0))
    }
}

/// A clause number at the beginning of a text, and what follows it.
fn number(text: &str) -> Option<(Vec<u32>, &str)> {
    let mut parts = Vec::new();
    let mut rest = text;
    loop {
        let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        parts.push(rest[..end].parse().ok()?);
        rest = &rest[end..];
        match rest.strip_prefix('.') {
            Some(more) if more.starts_with(|c: char| c.is_ascii_digit()) => rest = more,
            _ => return Some((parts, rest)),
        }
    }
}

fn crate_directory() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn rows() -> Vec<Row> {
    let path = crate_directory().join("../../docs/compliance.md");
    let text = fs::read_to_string(&path).expect("docs/compliance.md can be read");
    let mut rows = Vec::new();
    let (mut standard, mut columns) = (STANDARDS[0], Vec::new());
    for line in text.lines() {
        if let Some(title) = line.strip_prefix("## ") {
            standard = STANDARDS.into_iter().find(|name| title.starts_with(name)).unwrap_or(standard);
        }
        let Some(inner) = line.strip_prefix('|').and_then(|line| line.strip_suffix('|')) else {
            columns.clear();
            continue;
        };
        let cells: Vec<String> = inner.split('|').map(|cell| cell.trim().to_owned()).collect();
        if columns.is_empty() {
            columns = cells;
        } else if !cells.iter().all(|cell| cell.chars().all(|c| c == '-')) {
            assert_eq!(cells.len(), columns.len(), "cells of the row {line}");
            rows.push(Row { standard, cells: columns.iter().cloned().zip(cells).collect() });
        }
    }
    rows.retain(|row| row.cells.contains_key("where"));
    assert!(rows.len() > 150, "only {} rows were understood", rows.len());
    rows
}

/// What stands in backticks.
fn spans(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

/// `file: name, name`.
fn file_and_names(span: &str) -> (&str, Vec<&str>) {
    let (file, names) = span.split_once(':').unwrap_or((span, ""));
    (file, names.split(',').map(str::trim).filter(|name| !name.is_empty()).collect())
}

/// The text of a file of the crate's sources, of the crate, or of the repository.
fn source(file: &str) -> Option<String> {
    let places = ["src", ".", "../.."];
    places.iter().find_map(|place| fs::read_to_string(crate_directory().join(place).join(file)).ok())
}

fn is_word_of(text: &str, word: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(word).any(|(at, _)| !text[..at].ends_with(part) && !text[at + word.len()..].starts_with(part))
}

fn report(problems: &[String]) {
    assert!(problems.is_empty(), "docs/compliance.md:\n{}", problems.join("\n"));
}

#[test]
fn every_place_in_the_code_that_a_row_names_is_there() {
    let mut problems = Vec::new();
    for row in rows() {
        if spans(row.cell("where")).next().is_none() {
            problems.push(format!("{}: names no place", row.name()));
        }
        for span in spans(row.cell("where")) {
            let (file, names) = file_and_names(span);
            let Some(text) = source(file) else {
                problems.push(format!("{}: there is no file {file}", row.name()));
                continue;
            };
            let missing = names.iter().filter(|name| !is_word_of(&text, name));
            problems.extend(missing.map(|name| format!("{}: {file} has no {name}", row.name())));
        }
    }
    report(&problems);
}

#[test]
fn every_test_that_a_row_names_is_there() {
    let is_known = |span: &str| {
        let (suite, test) = span.split_once('.')?;
        let (_, tests) = LIBISCSI.iter().find(|(name, _)| *name == suite)?;
        tests.split_whitespace().find(|name| *name == test)
    };
    let mut problems = Vec::new();
    for row in rows() {
        let cell = row.cell("test");
        if cell != NO_TEST && spans(cell).next().is_none() {
            problems.push(format!("{}: has neither a test nor \"{NO_TEST}\"", row.name()));
        }
        for span in spans(cell) {
            let (file, names) = file_and_names(span);
            if !file.ends_with(".rs") {
                if is_known(span).is_none() {
                    problems
                        .push(format!("{}: libiscsi has no {span} that tells something of this target", row.name()));
                }
                continue;
            }
            let Some(text) = source(file) else {
                problems.push(format!("{}: there is no file {file}", row.name()));
                continue;
            };
            if names.is_empty() {
                problems.push(format!("{}: no test of {file} is named", row.name()));
            }
            let missing = names.iter().filter(|name| !text.contains(&format!("fn {name}(")));
            problems.extend(missing.map(|name| format!("{}: {file} has no test {name}", row.name())));
        }
    }
    report(&problems);
}

#[test]
fn every_command_has_one_row_and_every_row_of_a_command_has_one() {
    let written = |opcode: u8, action: Option<u8>| match action {
        Some(action) => format!("{opcode:02X}h/{action:02X}h"),
        None => format!("{opcode:02X}h"),
    };
    let known: BTreeSet<String> = OPERATIONS.iter().map(|o| written(o.opcode, o.action)).collect();
    let mut told = BTreeSet::new();
    let mut problems = Vec::new();
    for row in rows().iter().filter(|row| row.cells.contains_key("code")) {
        let code = row.cell("code").to_owned();
        if !known.contains(&code) {
            problems.push(format!("{}: the target has no such command", row.name()));
        }
        if !told.insert(code) {
            problems.push(format!("{}: comes twice", row.name()));
        }
    }
    problems.extend(known.difference(&told).map(|code| format!("no row for the command {code}")));
    report(&problems);
}

#[test]
fn every_text_key_has_one_row() {
    let mut known = BTreeSet::new();
    for module in KEY_MODULES {
        let text = source(module).expect("a module of the target");
        let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        for line in text.lines().filter(|line| !line.trim_start().starts_with("//")) {
            let strings = line.split('"').skip(1).step_by(2);
            let is_key = |s: &&str| {
                s.len() > 5 && !NO_KEYS.contains(s) && s.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
            };
            known.extend(strings.filter(is_key).map(str::to_owned));
        }
    }
    let mut told = BTreeSet::new();
    let mut problems = Vec::new();
    for row in rows().iter().filter(|row| row.cells.contains_key("key")) {
        if !told.insert(row.cell("key").to_owned()) {
            problems.push(format!("{}: comes twice", row.name()));
        }
    }
    problems
        .extend(known.symmetric_difference(&told).map(|key| format!("the key {key} is only in one of code and table")));
    report(&problems);
}

/// All Rust files below a directory.
fn rust_files(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).expect("a directory of sources") {
        let path = entry.expect("an entry of a directory").path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

/// Clauses that the comments of a source text cite. A bare "section 1.2" belongs to the standard that was named before.
fn cited(text: &str, mut standard: &'static str) -> Vec<(&'static str, Vec<u32>)> {
    // Citations may go over the end of a line.
    let comments = text.lines().filter_map(|line| line.split_once("//"));
    let comments: Vec<&str> = comments.map(|(_, comment)| comment.trim_start_matches(['/', '!', ' '])).collect();
    let comments = comments.join(" ");
    let mut clauses = Vec::new();
    for (at, _) in comments.char_indices() {
        let here = &comments[at..];
        standard = STANDARDS.into_iter().find(|name| here.starts_with(name)).unwrap_or(standard);
        let words = ["section ", "sections ", "Section ", "Sections "];
        let Some(mut list) = words.iter().find_map(|word| here.strip_prefix(word)) else { continue };
        while let Some((clause, rest)) = number(list) {
            clauses.push((standard, clause));
            let separators = [", and ", ", ", " and ", " to ", "-"];
            let Some(more) = separators.iter().find_map(|separator| rest.strip_prefix(separator)) else { break };
            list = more;
        }
    }
    clauses
}

#[test]
fn every_clause_that_the_code_cites_is_in_the_table() {
    let told: Vec<_> = rows().iter().filter_map(Row::clause).collect();
    // A clause covers its subclauses; a chapter that is cited as a whole is there when a part of it is.
    let covers = |(standard, clause): &(&str, Vec<u32>), cited: &(&str, Vec<u32>)| {
        *standard == cited.0 && (cited.1.starts_with(clause) || clause.starts_with(&cited.1))
    };
    let mut problems = Vec::new();
    let mut count = 0;
    let sources = crate_directory().join("src");
    for path in rust_files(&sources) {
        let text = fs::read_to_string(&path).expect("a source file");
        for clause in cited(&text, STANDARDS[0]) {
            count += 1;
            if !told.iter().any(|row| covers(row, &clause)) {
                let number: Vec<String> = clause.1.iter().map(u32::to_string).collect();
                let file = path.strip_prefix(&sources).unwrap_or(&path).display();
                problems.push(format!("{file} cites {} section {}: no row", clause.0, number.join(".")));
            }
        }
    }
    assert!(count > 150, "only {count} citations were found");
    problems.sort();
    problems.dedup();
    report(&problems);
}

#[test]
fn citations_are_understood() {
    let text = "//! A (SPC-4 sections 6.4, 5.16.7) and\n/// B (section\n/// 6.24-6.26). RFC 7143 section 7.7: x\n\
                let a = 1; // SBC-3 section 4.5.";
    let clauses: Vec<(&str, Vec<u32>)> = vec![
        ("SPC-4", vec![6, 4]),
        ("SPC-4", vec![5, 16, 7]),
        ("SPC-4", vec![6, 24]),
        ("SPC-4", vec![6, 26]),
        ("RFC 7143", vec![7, 7]),
        ("SBC-3", vec![4, 5]),
    ];
    assert_eq!(cited(text, STANDARDS[0]), clauses);
    assert_eq!(number("4.2.2.1 Command numbering"), Some((vec![4, 2, 2, 1], " Command numbering")));
    assert_eq!(number("annex"), None);
}
