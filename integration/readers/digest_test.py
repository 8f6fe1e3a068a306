"""The digest must tell apart what differs and nothing else."""

import datetime
import decimal
import unittest

from digest import Digest


def digest(kind, *values):
    one = Digest({"x": kind})
    for value in values:
        one.add([value])
    return one.answer()["digest"]


class DigestTest(unittest.TestCase):
    def test_order_does_not_matter_and_number_does(self):
        self.assertEqual(digest("long", 1, 2, 3), digest("long", 3, 1, 2))
        self.assertNotEqual(digest("long", 1, 2), digest("long", 1, 2, 2))
        self.assertNotEqual(digest("long", 1, 1), digest("long", 2, 2))

    def test_the_border_between_columns_counts(self):
        def pair(*row):
            one = Digest({"x": "string", "y": "string"})
            one.add(row)
            return one.answer()["digest"]

        self.assertNotEqual(pair("ab", "c"), pair("a", "bc"))
        self.assertNotEqual(pair(None, "null"), pair("null", None))

    def test_one_value_has_one_text_whoever_read_it(self):
        moment = datetime.datetime(2013, 1, 1, 10, tzinfo=datetime.timezone.utc)
        self.assertEqual(digest("timestamptz", "2013-01-01T10:00:00Z"), digest("timestamptz", moment))
        self.assertEqual(digest("timestamptz", "2013-01-01T11:00:00+01:00"), digest("timestamptz", 1_357_034_400_000_000))
        self.assertEqual(digest("date", "1969-12-31"), digest("date", -1))
        self.assertEqual(digest("date", datetime.date(2020, 2, 29)), digest("date", 18_321))
        self.assertEqual(digest("decimal(9,2)", "12.3"), digest("decimal(9,2)", decimal.Decimal("12.30")))
        self.assertEqual(digest("double", 30), digest("double", 30.0))
        self.assertEqual(digest("struct<a: int, b: int>", {"a": 1, "b": None}), digest("struct<a: int, b: int>", {"a": 1}))
        self.assertEqual(digest("map<string, int>", {"a": 1, "b": 2}), digest("map<string, int>", [("b", 2), ("a", 1)]))

    def test_near_values_differ(self):
        self.assertNotEqual(digest("double", 0.1), digest("double", 0.1 + 2**-56))
        self.assertNotEqual(digest("double", 0.0), digest("double", -0.0))
        self.assertNotEqual(digest("list<int>", [1, None]), digest("list<int>", [1]))
        self.assertNotEqual(digest("list<int>", []), digest("list<int>", None))
        self.assertNotEqual(digest("timestamp", "2013-01-01T10:00:00"), digest("timestamp", "2013-01-01T10:00:00.000001"))

    def test_a_fraction_is_no_integer(self):
        with self.assertRaises(ValueError):
            digest("long", 1.5)


if __name__ == "__main__":
    unittest.main()
