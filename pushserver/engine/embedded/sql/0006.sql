-- The address (`pushserver.core.webhooks.Webhook.address`) whose receiver answered that it is gone; '': none.
ALTER TABLE webhook ADD COLUMN gone TEXT NOT NULL DEFAULT '';
