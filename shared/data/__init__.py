"""The authorities of RDS certificates, and what renews them."""
