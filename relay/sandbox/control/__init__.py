"""The control interface (`POST /_sandbox/<method>`): what people do, who exists, what goes wrong."""
