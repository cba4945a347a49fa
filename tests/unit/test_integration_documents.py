"""Every member of a registration and of its health is declared in its document."""

import pytest
from beanie import Document
from msgspec import UNSET, Struct, structs

from app.contracts.integration import Integration, IntegrationHealth
from app.kit.casing import camel_case, snake_case
from models.documents.integrations import IntegrationDocument, IntegrationHealthDocument

PAIRS = [(IntegrationDocument, Integration), (IntegrationHealthDocument, IntegrationHealth)]


@pytest.mark.parametrize(("document", "shape"), PAIRS)
def test_every_stored_member_is_declared(document: type[Document], shape: type[Struct]) -> None:
    declared = {field.alias: field.is_required() for field in document.model_fields.values()}
    fields = structs.fields(shape)
    names = {field.name: "_id" if field.name == "alias" else camel_case(field.name) for field in fields}
    assert set(names.values()) == set(declared) - {"revision_id", "revisionId"}
    for field in fields:
        if field.default is UNSET:
            assert not declared[names[field.name]], field.name
        assert field.name == "alias" or snake_case(names[field.name]) == field.name
