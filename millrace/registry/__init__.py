"""The models of a use case: registered, promoted, rolled back; MLflow and our database behind few functions.

The database says who serves; MLflow's model versions, tags and alias `champion` mirror it, so that its own clients and
UI find the same models, and load them as any other MLflow model. A bundle lies in the folder of bundles, below
`<use case>/<version>`, from its registration on and never changes. What makes or judges models is the training room's
business.
"""

from millrace.registry.mirror import CHAMPION, RUN_TAG, VERSION_TAG
from millrace.registry.model_files import MODEL_FOLDER, log_model_files
from millrace.registry.server import experiment_id, mlflow_client
from millrace.registry.versions import champion, promote, register, registered, rollback

__all__ = [
    "CHAMPION",
    "MODEL_FOLDER",
    "RUN_TAG",
    "VERSION_TAG",
    "champion",
    "experiment_id",
    "log_model_files",
    "mlflow_client",
    "promote",
    "register",
    "registered",
    "rollback",
]
