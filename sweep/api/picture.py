"""Picture: a chart that shows itself in a notebook and can be saved."""

from pathlib import Path

from sweep.plot import picture_file
from sweep.plot.chart import Chart
from sweep.plot.vega_lite import Spec, specification


class Picture:
    """A chart. A notebook shows it; `save` writes it; `sql` is the query that has its numbers."""

    def __init__(self, chart: Chart) -> None:
        self.chart = chart

    @property
    def sql(self) -> str:
        return self.chart.sql

    @property
    def spec(self) -> Spec:
        """The Vega-Lite specification, with the data."""
        return specification(self.chart)

    def svg(self) -> str:
        """The picture as SVG text."""
        return picture_file.svg(self.spec)

    def save(self, path: str | Path) -> Path:
        """Write the picture in the format of the file's ending: .svg, .png, .pdf or .html. Raises UserError."""
        from sweep.report.html_page import write_chart

        write_chart(self.chart, Path(path))
        return Path(path)

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        return {"image/svg+xml": self.svg(), "text/plain": repr(self)}

    def __repr__(self) -> str:
        return f"<picture: {self.chart.title}>"
