"""The deployments and automations for a Prefect server, in its own formats: `prefect.yaml` and `automations.yaml`."""

from pathlib import Path

DEPLOYMENTS = Path(__file__).with_name("prefect.yaml")
AUTOMATIONS = Path(__file__).with_name("automations.yaml")
WORK_POOL = "repli"
