"""Pictures of a run: what is asked for (quantities, SQL), what is drawn (Chart), and how (Vega-Lite, text).

Data flows one way: request -> SQL -> Arrow -> Chart -> Vega-Lite specification or lines of text -> file. Imports query
and below.
"""
