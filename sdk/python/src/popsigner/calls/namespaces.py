"""NamespaceService: an organization's environments."""

from ..gen.popsigner.v1 import (
    CreateNamespaceRequest,
    CreateNamespaceResponse,
    DeleteNamespaceRequest,
    DeleteNamespaceResponse,
    ListNamespacesRequest,
    ListNamespacesResponse,
    Namespace,
)
from . import Call, Page, Repeat, Rpc, call, present

_SERVICE = "/popsigner.v1.NamespaceService/"
CREATE = Rpc(_SERVICE + "CreateNamespace", CreateNamespaceRequest, CreateNamespaceResponse, Repeat.NEVER)
LIST = Rpc(_SERVICE + "ListNamespaces", ListNamespacesRequest, ListNamespacesResponse, Repeat.ALWAYS)
DELETE = Rpc(_SERVICE + "DeleteNamespace", DeleteNamespaceRequest, DeleteNamespaceResponse, Repeat.NEVER)


def create(*, name: str, address_prefix: str = "", timeout: float | None = None) -> Call[Namespace]:
    """Create a namespace. `address_prefix` is the bech32 prefix of its keys' addresses, `celestia` where it is empty.

    Raises InvalidField, NamespaceNameTaken, QuotaExceeded.
    """
    request = CreateNamespaceRequest(name=name, address_prefix=address_prefix)
    return call(CREATE, request, lambda answer: present(answer.namespace), timeout)


def page(cursor: str, /, *, page_size: int = 0, timeout: float | None = None) -> Call[Page[Namespace]]:
    """The namespaces, oldest first."""
    return call(
        LIST,
        ListNamespacesRequest(page_size=page_size, cursor=cursor),
        lambda answer: Page(entries=tuple(answer.namespaces), next_cursor=answer.next_cursor),
        timeout,
    )


def delete(namespace: str | Namespace, *, timeout: float | None = None) -> Call[None]:
    """Delete an empty namespace, by id or name. Raises NamespaceNotFound, NamespaceNotEmpty."""
    name = namespace.id if isinstance(namespace, Namespace) else namespace
    return call(DELETE, DeleteNamespaceRequest(namespace_id=name), lambda _answer: None, timeout)
