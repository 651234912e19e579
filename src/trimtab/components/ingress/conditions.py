"""Every reason that this component gives, in pod conditions, in the annotation `proxy.trimtab.dev/problem` of an Ingress
and in events, with what it means to a user."""

from __future__ import annotations

CONDITIONS: dict[str, str] = {
    # Pod condition proxy.trimtab.dev/attached
    "Attaching": "The pod's containers are ready and its endpoints are being given to the proxy. The pod becomes Ready when "
    "the proxy reports them up; if that does not come, Envoy is not running: see `trimtab status`.",
    "Attached": "The proxy reports every endpoint of the pod up, so the pod is Ready and an older one may go.",
    "NotProxied": "No Ingress leads to this pod, so there is nothing to wait for.",
    "Detached": "The pod is being deleted, and the proxy has finished its requests and forgotten it; it is stopped now.",
    "ContainersNotReady": "A container of the pod is not ready, so the proxy sends the pod nothing. Its readiness probe or "
    "its logs say why.",
    # Ingress
    "InvalidHost": "A host of the Ingress is no DNS name. Write it like shop.example.com, or *.example.com for one label.",
    "InvalidPath": "A path of the Ingress cannot occur in a request. It starts with / and holds no ?, # or space.",
    "InvalidAnnotation": "An annotation of the Ingress has a value that cannot be read; the default holds.",
    "PathTaken": "An older Ingress serves the same host and path. The older one keeps it; change or delete one of them.",
    "CertificateTaken": "An older Ingress brings another certificate for the same host. The older one is served.",
    "BackendUnsupported": "The backend is not a service with endpoints and a port. Only those can be served.",
    "ServiceMissing": "The Ingress names a service that does not exist. Requests get 503 until it does.",
    "PortMissing": "The Ingress names a port that its service does not have. Requests get 503 until it does.",
    "SecretInvalid": "The Secret named in spec.tls holds no certificate with its key. HTTPS answers with the engine's own "
    "certificate until it does.",
    "CertificateMissing": "A certificate cannot be issued because the engine's CA is missing or unreadable.",
    "CertificateExpired": "The certificate that somebody put into the Secret has expired. It is served all the same.",
    "CertificateMismatch": "The certificate that somebody put into the Secret is for other names. It is served all the same.",
    "CertificateIssued": "A certificate was issued from the engine's CA. It is renewed after two thirds of its life.",
    "ProxyRefused": "Envoy did not take a configuration in and goes on with the one before; the message holds its reason.",
    "ProxyFull": "Envoy cannot watch any more files on this machine, because the kernel allows one user too few inotify "
    "instances. The older Ingresses are served. Raise it: sysctl -w fs.inotify.max_user_instances=8192.",
    "DrainCutShort": "An endpoint had requests left when its drain time (0.8 of the pod's grace period) was used up; they "
    "were cut off. Raise terminationGracePeriodSeconds for apps with longer requests.",
}
