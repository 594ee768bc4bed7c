"""Networks from elsewhere, as traceable chains."""
