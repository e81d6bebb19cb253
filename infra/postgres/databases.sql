-- Run once by the postgres image, in an empty volume. `millrace` itself is made by POSTGRES_DB.
CREATE DATABASE mlflow;
CREATE DATABASE prefect;
