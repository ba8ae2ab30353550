"""The units of settings, as `--help` and the settings page name them."""

Count = {"unit": "count"}
Bytes = {"unit": "bytes"}
Rate = {"unit": "count/second"}
ByteRate = {"unit": "bytes/second"}
Seconds = {"unit": "seconds"}
Millis = {"unit": "milliseconds"}
Days = {"unit": "days"}
Text = {"unit": "text"}
Flag = {"unit": "true|false"}
