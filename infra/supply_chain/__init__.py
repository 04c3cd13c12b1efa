"""What Stillhouse is made of: licences, list of parts, known vulnerabilities. Run by `make check`, `sbom`, `audit`."""
