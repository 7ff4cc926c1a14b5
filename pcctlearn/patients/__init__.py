"""CT volumes of patients and procedural patients: objects to scan, as maps of materials."""
