-- Beside `repli`, Prefect's own database; and vectors.
CREATE DATABASE prefect;
CREATE EXTENSION IF NOT EXISTS vector;
