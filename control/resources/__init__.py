"""What people declare: Istio's VirtualService and DestinationRule, read strictly and compiled to traffic policies."""
