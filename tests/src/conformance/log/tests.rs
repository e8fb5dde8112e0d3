//! The logs are excerpts of real runs of iscsi-test-cu 1.19.

use super::*;

const HEAD: &str = "    [SKIPPED] PERSISTENT RESERVE IN is not implemented.
skipping non-LU designator: 1
found matching LU device identifier for all (2) paths



     CUnit - A unit testing framework for C - Version 2.1-3
     http://cunit.sourceforge.net/


";

fn summary(tests: usize, failed: usize) -> String {
    let passed = tests - failed;
    format!(
        "


Run Summary:    Type  Total    Ran Passed Failed Inactive
              suites      1      1    n/a      0        0
               tests {tests:>6} {tests:>6} {passed:>6} {failed:>6}        0
             asserts   3589   3589   3585      4      n/a

Elapsed time =    0.134 seconds
Tests completed with return value: 0
"
    )
}

fn of(log: &str) -> (Vec<(String, Verdict)>, bool) {
    let parsed = parse(log).unwrap();
    (parsed.results, parsed.complete)
}

fn named(results: &[(&str, Verdict)]) -> Vec<(String, Verdict)> {
    results.iter().map(|(name, verdict)| ((*name).to_owned(), verdict.clone())).collect()
}

const COMPARE_AND_WRITE: &str = "Suite: CompareAndWrite
  Test: Simple ...    [FAILED] COMPAREANDWRITE failed with wrong sense. Should have failed with ILLEGAL_REQUEST(0x05)/INVALID_FIELD_IN_CDB(0x2400) but failed with Sense: (null)(0x05)/(0x0e03)

    [FAILED] COMPAREANDWRITE failed with wrong sense. Should have failed with ILLEGAL_REQUEST(0x05)/INVALID_FIELD_IN_CDB(0x2400) but failed with Sense: (null)(0x05)/(0x0e03)

FAILED
    1. test_compareandwrite_simple.c:71  - CU_ASSERT_EQUAL(_r,0)
    2. test_compareandwrite_simple.c:123  - CU_ASSERT_EQUAL(_r,0)
  Test: DpoFua ...passed
  Test: Unwritten ...passed
  Test: InvalidDataOutSize ...passed    [SKIPPED] PERSISTENT RESERVE IN is not implemented.
    [SKIPPED] PERSISTENT RESERVE IN is not implemented.
";

/// What the tool prints while it logs out is not the last test's.
#[test]
fn failures_carry_what_was_said_and_the_first_assertion() {
    let (results, complete) = of(&format!("{HEAD}{COMPARE_AND_WRITE}{}", summary(4, 1)));
    let why = "COMPAREANDWRITE failed with wrong sense. Should have failed with ILLEGAL_REQUEST(0x05)/\
               INVALID_FIELD_IN_CDB(0x2400) but failed with Sense: (null)(0x05)/(0x0e03) | \
               test_compareandwrite_simple.c:71  - CU_ASSERT_EQUAL(_r,0)";
    let wanted = [
        ("Simple", Verdict::Failed(why.to_owned())),
        ("DpoFua", Verdict::Passed),
        ("Unwritten", Verdict::Passed),
        ("InvalidDataOutSize", Verdict::Passed),
    ];
    assert_eq!(results, named(&wanted));
    assert!(complete);
}

#[test]
fn a_failure_may_have_nothing_but_its_assertion() {
    let log = "Suite: Sanitize
  Test: Readonly ...    SWP is not changeable
FAILED
    1. test_sanitize_readonly.c:60  - CU_ASSERT_EQUAL(ret,0)
  Test: Reset ...    [SKIPPED] SANITIZE OVERWRITE is not implemented according to REPORT_SUPPORTED_OPCODES.
passed    [SKIPPED] PERSISTENT RESERVE IN is not implemented.
";
    let (results, _) = of(&format!("{HEAD}{log}{}", summary(2, 1)));
    let reason = "SANITIZE OVERWRITE is not implemented according to REPORT_SUPPORTED_OPCODES.";
    let wanted = [
        ("Readonly", Verdict::Failed("test_sanitize_readonly.c:60  - CU_ASSERT_EQUAL(ret,0)".to_owned())),
        ("Reset", Verdict::Skipped(reason.to_owned())),
    ];
    assert_eq!(results, named(&wanted));
}

#[test]
fn skipped_is_not_passed() {
    let log = "Suite: Reserve6
  Test: Simple ...    [SKIPPED] RESERVE6 is not implemented on target
    [SKIPPED] RESERVE6 is not implemented on target
    [SKIPPED] RESERVE6 is not implemented.
passed
  Test: 2Initiators ...    Take out a RESERVE6 from the first initiator
    [SKIPPED] RESERVE6 is not implemented on target
    [SKIPPED] RESERVE6 is not implemented.
passed    [SKIPPED] PERSISTENT RESERVE IN is not implemented.
";
    let (results, _) = of(&format!("{HEAD}{log}{}", summary(2, 0)));
    let skipped = || Verdict::Skipped("RESERVE6 is not implemented on target".to_owned());
    assert_eq!(results, named(&[("Simple", skipped()), ("2Initiators", skipped())]));
}

/// A command that is meant to fail is complained about, and the test passes; a remark is no verdict.
#[test]
fn only_the_verdict_counts() {
    let log = "Suite: iSCSIdatasn
  Test: iSCSIDataSnInvalid ...    [FAILED] WRITE10 command failed with status 2 / sense key COMMAND ABORTED(0x0b) / ASCQ (null)(0x4705)
    [FAILED] WRITE10 command failed with status 2 / sense key COMMAND ABORTED(0x0b) / ASCQ (null)(0x4705)
passed
  Test: Control-SWP ...    SWP is not changeable
passed
";
    let (results, _) = of(&format!("{HEAD}{log}{}", summary(2, 0)));
    assert_eq!(results, named(&[("iSCSIDataSnInvalid", Verdict::Passed), ("Control-SWP", Verdict::Passed)]));
}

#[test]
fn a_log_that_breaks_off_has_a_hung_test() {
    let cut = COMPARE_AND_WRITE.split_once("passed\n  Test: InvalidDataOutSize").unwrap().0;
    let (results, complete) = of(&format!("{HEAD}{cut}"));
    assert!(!complete);
    assert_eq!(results[1..], named(&[("DpoFua", Verdict::Passed), ("Unwritten", Verdict::Hung)]));
}

#[test]
fn a_login_that_failed_has_no_tests() {
    let log = "Login Failed. Failed to log in to target. Status: Authentication failure(513)
Failed to connect to SCSI device 0
";
    assert_eq!(of(log), (Vec::new(), false));
}

#[test]
fn a_summary_that_disagrees_is_an_error() {
    for (tests, failed) in [(4, 0), (4, 2), (5, 1)] {
        assert!(parse(&format!("{HEAD}{COMPARE_AND_WRITE}{}", summary(tests, failed))).is_err());
    }
    let open = COMPARE_AND_WRITE.replace("Test: Unwritten ...passed", "Test: Unwritten ...");
    assert!(parse(&format!("{HEAD}{open}{}", summary(4, 1))).is_err());
}
