"""The pages of `realtime api`: the API's reference and the dashboard. Workers do not serve them."""
