"""What is deployed to a Prefect server, as its own tools read it: `prefect.yaml` and `automations.yaml`."""

from pathlib import Path

DEPLOYMENTS = Path(__file__).with_name("prefect.yaml")
AUTOMATIONS = Path(__file__).with_name("automations.yaml")
WORK_POOL = "repli"
