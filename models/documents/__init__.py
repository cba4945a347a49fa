"""The documents: the one place where collections are declared, with the indexes of ``models.indexes``.

Beanie creates the collections and indexes from them. The stores read and write the same shapes straight on
the collections (``models.states.store``, ``models.history_store``), through ``models.codec``.
"""

from beanie import Document

from models.documents.api_keys import ApiKeyDocument
from models.documents.audit import AuditDocument
from models.documents.corruptions import CorruptionDocument
from models.documents.damaged_states import DamagedStateDocument
from models.documents.data_keys import DataKeysDocument
from models.documents.dead_letters import DeadLetterDocument
from models.documents.definitions import FlowDefinitionDocument
from models.documents.delivery_lanes import DeliveryLaneDocument
from models.documents.delivery_log import DeliveryLogDocument
from models.documents.history import FlowHistoryDocument
from models.documents.integrations import IntegrationDocument, IntegrationHealthDocument
from models.documents.leases import LeaseDocument
from models.documents.reservations import ReservationDocument
from models.documents.secrets import SecretDocument
from models.documents.states import FlowStateDocument

DOCUMENTS: list[type[Document]] = [
    FlowDefinitionDocument,
    FlowStateDocument,
    FlowHistoryDocument,
    DamagedStateDocument,
    CorruptionDocument,
    LeaseDocument,
    SecretDocument,
    ReservationDocument,
    ApiKeyDocument,
    IntegrationDocument,
    IntegrationHealthDocument,
    DeliveryLaneDocument,
    DeliveryLogDocument,
    DeadLetterDocument,
    DataKeysDocument,
    AuditDocument,
]
