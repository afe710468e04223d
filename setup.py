"""What pyproject.toml cannot say: the wheel carries the recipes' YAML files as lmu_asr/egs."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

EGS = Path(__file__).parent / "egs"


class WithRecipes(build_py):
    """Copies ``egs`` without its scripts and results beside the modules."""

    def run(self) -> None:
        """Build the package, then add the recipes."""
        super().run()
        if self.editable_mode:  # the checkout's own egs/ is found
            return
        for path in (*EGS.rglob("conf/*.yaml"), *EGS.glob("*/lexicon.txt")):
            target = Path(self.build_lib) / "lmu_asr" / "egs" / path.relative_to(EGS)
            self.mkpath(str(target.parent))
            self.copy_file(str(path), str(target))


setup(cmdclass={"build_py": WithRecipes})
