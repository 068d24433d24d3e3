"""A real Kubernetes API server, built from source, without nodes: every manifest is validated and admitted."""
