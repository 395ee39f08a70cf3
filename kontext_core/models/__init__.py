"""The networks: transformer, autoencoder, text encoder. Import the module you need; none is eager."""
