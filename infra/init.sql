-- Prefect's own database beside `repli`, and the extension pgvector.
CREATE DATABASE prefect;
CREATE EXTENSION IF NOT EXISTS vector;
