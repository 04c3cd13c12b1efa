"""Recording the newest state of something as a document, however many writers there are."""

from tasks.contracts.errors import DocumentConflictError
from tasks.runtime.stores import Document, DocumentStore


def record_document(documents: DocumentStore, name: str, data: bytes) -> Document:
    """Make `data` the newest version of the document `name`, unless it is that already."""
    while True:
        latest = documents.latest(name)
        if latest is not None and latest.data == data:
            return latest
        try:
            return documents.append(name, data, latest.version if latest else 0)
        except DocumentConflictError:
            continue  # another writer was between the read and the write: look again
