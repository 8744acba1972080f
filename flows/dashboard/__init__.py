"""The dashboard: one Streamlit page that only reads the store."""
