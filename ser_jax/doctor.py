"""Says what is wrong with a release: `python -m ser_jax.doctor --config.corpus.name=iemocap --config.corpus.root=…`."""

from pathlib import Path

from absl import flags

from ser_jax import cli

if __name__ == "__main__":
    CONFIG = cli.define_config()
    OUTPUT = flags.DEFINE_string("output", "doctor.csv", "File for every finding: file, id, severity, finding, detail.")


def main() -> int:
    """Examines the release, prints a table and lists every finding; leaves with 0 if there is no error, else with 2."""
    from ser_jax.diagnosis import diagnose, report

    output = Path(OUTPUT.value)
    report.check_output(output)
    found = diagnose.diagnose(CONFIG.value)
    report.write_findings(output, found.findings)
    print(report.report_lines(found, output))
    report.check_errors(found, output)
    return 0


if __name__ == "__main__":
    cli.run(main)
