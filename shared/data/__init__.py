"""The authorities of RDS certificates, and the script that renews them."""
