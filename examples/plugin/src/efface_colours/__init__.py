"""Plug-ins for efface: a method, a judge, a metric, a protocol, an attack and an exporter."""
